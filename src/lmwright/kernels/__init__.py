"""Matrix products of quantised weights in C, chosen by the CPU, with references in torch."""
