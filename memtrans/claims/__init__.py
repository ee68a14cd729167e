"""The claims of the paper (`results/claims.yaml`), and what the records say of each: `load_claims`, `judge`."""

from memtrans.claims.spec import Claim, Test, load_claims
from memtrans.claims.verdicts import Finding, Verdict, compare, judge

__all__ = ["Claim", "Finding", "Test", "Verdict", "compare", "judge", "load_claims"]
