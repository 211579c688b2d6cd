"""This machine: threads that are granted, class of the CPU, measured rates, choices."""
