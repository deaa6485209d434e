"""Reports of `fft diagnose` from diagnose.json data: tables on the terminal, a picture, one HTML page."""
