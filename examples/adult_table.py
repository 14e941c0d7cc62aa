"""The UCI Adult table, from CSV to a synthetic table and its report, at epsilon = 5.

Run: python examples/adult_table.py adult.csv

The file needs a header line with the column names of examples/adult.toml. A fifth of the rows is
held out, so that the report can test classifiers on people that the release has never seen.
"""

import sys
from pathlib import Path

from dpslice.tabular import Schema, Synthesizer, read_table, write_table

schema = Schema.load(Path(__file__).with_name("adult.toml"))
table = read_table(sys.argv[1], schema).sample(frac=1.0, random_state=0)
held_out, private = table[: len(table) // 5], table[len(table) // 5 :]

synthesizer = Synthesizer(schema, epsilon=5.0, delta=1e-5).fit(private)
print(synthesizer.guarantee)

synthesizer.save("adult-model.pt")
write_table(synthesizer.sample(len(private)), "adult-synthetic.csv")
scores = synthesizer.report(private, "adult-report.html", holdout=held_out)  # not private

for name in ("tv_complement", "contingency_similarity", "ks_complement", "auc_synthetic"):
    print(f"{name:24} {scores[name]:.3f}")
