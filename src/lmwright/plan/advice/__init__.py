"""Rules of advice, one a factor: what is to be written, rows, domain, difficulty, machine."""
