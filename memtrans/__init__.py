"""The harness: corpora, runs, evaluation, records and tables. Data flows one way, from configs to tables."""
