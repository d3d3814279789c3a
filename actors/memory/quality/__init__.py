"""How good an answer is, as five numbers from 0 to 1 and their weighted mean; docs/quality.md has the formulas."""
