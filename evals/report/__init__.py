"""Results for people: on the terminal, as Markdown, as one HTML file."""
