"""One self-contained HTML file on what A and B did."""
