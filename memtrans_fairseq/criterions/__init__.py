"""Criterions that fairseq lacks."""
