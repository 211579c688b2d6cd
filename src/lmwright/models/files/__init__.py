"""Model folders read and written, in formats that execute nothing."""
