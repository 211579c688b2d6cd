"""From characters to ids and back; text repaired and personal data found."""
