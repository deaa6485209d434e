"""Reports for people: tables for the terminal and Markdown, pictures, and HTML pages, all from JSON records."""
