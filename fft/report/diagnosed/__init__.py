"""What `fft diagnose` found, for people: tables on the terminal, a picture, one HTML page. All read diagnose.json."""
