"""Recipe, stage, stamp, journal, randomness, durable writes, errors: nothing about language."""
