"""Parts that the variants and the hosts share."""
