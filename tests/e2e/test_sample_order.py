#!/usr/bin/env python3
"""What a run reads over three epochs, from the batches that its models were given (SY_SAMPLE_LOG): the same sequences in the
same order whether it runs on one rank without a break, or is killed and goes on at other numbers of ranks."""

from collections import Counter

import harness
from harness import write_tokens

S = 32


class Order(harness.Case):
    sizes = [5] * 9  # sequences of each step
    ramp = {}

    def ledger(self, name):
        """{sequence of the order: its ids}, of all ranks; what was read again after a kill is the same again."""
        found = {}
        for path in self.folder.glob(f"{name}.*.samples.*"):
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # a kill may tear the last
                    step, k, *ids = map(int, line.split())
                    self.assertEqual(sum(self.sizes[:step - 1]) <= k, k < sum(self.sizes[:step]))
                    self.assertEqual(found.setdefault(k, ids), ids, f"sequence {k}")
        self.assertEqual(sorted(found), list(range(sum(self.sizes))))
        return [found[k] for k in sorted(found)]

    def session(self, name, number, ranks, fault=None):
        job = self.job("train", self.config(model={"vocab_size": 500}, data=self.data,
                                            train={"steps": 9, "global_batch": 5, "checkpoint_every": 1, **self.ramp}), "--run-dir", self.folder / name, *(["--resume"] if number else []),
                       ranks=ranks, fault=fault, env={"SY_SAMPLE_LOG": str(self.folder / f"{name}.{number}.samples")})
        self.assertEqual(job.status == 0, fault is None, job.text())
        return job

    def whole(self, **data):
        """The ledger of a run of one rank."""
        self.data = {"tokenizer": "none", **data}
        self.session("whole", 0, 0)
        return self.ledger("whole")

    def orders(self, ranks=(3, 2), **data):
        """The same, which must be that of a run that was killed and went on at each of these numbers of ranks."""
        whole = self.whole(**data)
        self.session("broken", 0, 0, fault="train.step:4:kill")
        for i, n in enumerate(ranks):
            job = self.session("broken", i + 1, n, fault=None if n == ranks[-1] else "train.step:4:kill:1")
        self.assertIn("resuming from", job.text())
        self.assertGreaterEqual(len(list(self.folder.glob("broken.1.samples.*"))), 3)
        self.assertEqual(self.ledger("broken"), whole)
        return whole

    def test_own_order_reads_every_sequence_once_an_epoch(self):
        """13 sequences: an epoch ends inside a step."""
        write_tokens(self.folder / "a", [range(13 * S + 1)])
        order = self.whole(train=[{"path": str(self.folder / "a")}])
        for ids in order:
            self.assertEqual(ids, list(range(ids[0], ids[0] + S)))
        first = [ids[0] // S for ids in order]
        epochs = [first[i:i + 13] for i in (0, 13, 26)]
        for epoch in epochs:
            self.assertEqual(sorted(epoch), list(range(13)))
        self.assertEqual(len(set(map(tuple, epochs))), 3)  # each in an order of its own

    def test_order_of_a_blend_reads_every_sequence_once_an_epoch_whatever_the_ranks(self):
        """Of 45 draws one set gets 30 and goes through its 10 sequences three times, the other 15 of its 5."""
        write_tokens(self.folder / "a", [range(10 * S + 1)])
        write_tokens(self.folder / "b", [range(499 - 5 * S - 1, 499)])
        order = self.orders(train=[{"path": str(self.folder / "a"), "weight": 2}, {"path": str(self.folder / "b"), "weight": 1}])
        first = [ids[0] for ids in order]
        for begin, n in ((0, 10), (499 - 5 * S - 1, 5)):
            mine = [(at - begin) // S for at in first if (at >= 10 * S) == (begin > 0)]
            for i in range(0, len(mine) - n + 1, n):
                self.assertEqual(sorted(mine[i:i + n]), list(range(n)))
            self.assertLessEqual(abs(len(mine) - 3 * n), 3)

    def test_ramp_of_the_batch_skips_and_repeats_nothing_whatever_the_ranks(self):
        """The sizes by Megatron's rule, from what has been seen; a run that goes on amid the ramp has the losses of one that never stopped."""
        self.ramp = {"batch_ramp_from": 1, "batch_ramp_by": 2, "batch_ramp_tokens": 9 * S}
        self.sizes = []
        while len(self.sizes) < 9:
            self.sizes.append(min(5, 1 + 2 * (sum(self.sizes) * 2 // 9)))
        self.assertEqual(self.sizes, [1, 1, 1, 1, 1, 3, 3, 5, 5])
        write_tokens(self.folder / "a", [range(13 * S + 1)])
        order = self.orders((3,), train=[{"path": str(self.folder / "a")}])
        self.assertEqual(sorted(ids[0] // S for ids in order[:13]), list(range(13)))
        whole, broken = self.metrics("whole"), self.metrics("broken")
        for records in whole, broken:
            self.assertEqual([r["train/global_batch"] for r in records], self.sizes)
            self.assertEqual([r["tokens"] for r in records], [S * sum(self.sizes[:i + 1]) for i in range(9)])
        self.near(self.losses("broken"), self.losses("whole"), 1e-4)
        self.assertEqual([r["train/lr"] for r in broken], [r["train/lr"] for r in whole])

    def test_megatron_s_order_reads_every_token_thrice_whatever_the_ranks(self):
        """Its samples go on over the borders of sequences and epochs: all tokens but the last few are inputs once an epoch."""
        bounds = [0, 40, 41, 160, 300, 481]
        write_tokens(self.folder / "a", [range(a, b) for a, b in zip(bounds, bounds[1:])])
        order = self.orders(order="megatron", train=[{"path": str(self.folder / "a")}])
        count = Counter(i for ids in order for i in ids)
        self.assertEqual(sum(count.values()), 45 * S)
        self.assertEqual(3 * 481 - 45 * S, sum(3 - count[i] for i in range(481)))
        self.assertTrue(all(0 <= 3 - count[i] <= 3 for i in range(481)))


if __name__ == "__main__":
    harness.main()
