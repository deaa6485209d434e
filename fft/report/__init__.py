"""What a person reads: tables on the terminal and in Markdown, pictures, and one HTML page. All take run.json data."""
