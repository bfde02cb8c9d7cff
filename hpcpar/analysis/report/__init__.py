"""What a person hands on: a page in HTML, tables in LaTeX, sections of a proposal, points for Extra-P."""
