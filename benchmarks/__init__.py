"""One command a claim: ours and a peer in turns, one JSON line a result."""
