"""routing_overlap: what is followed is the same tokens, whatever the layout, and through a resume."""

import harness


class Overlap(harness.Case):
    KEYS = ("moe/routing_overlap", "moe/layer_0/routing_overlap", "moe/layer_1/routing_overlap")

    def overlaps(self, run):
        return {int(r["step"]): [float(r[k]) for k in self.KEYS] for r in self.metrics(run) if self.KEYS[0] in r}

    def test_router_that_does_not_learn_chooses_as_before(self):
        config = self.config(optim={"lr": 1e-30}, train={"steps": 4, "probe_every": 2, "log_every": 3})
        self.train(config, "run")
        self.assertEqual(self.overlaps("run"), {2: [1, 1, 1], 4: [1, 1, 1]})

    def test_overlap_does_not_depend_on_ranks_and_goes_through_a_resume(self):
        """On ref, where no choice lies within rounding of another."""
        train = {"steps": 8, "probe_every": 2, "checkpoint_every": 3}
        config = self.config("a.yaml", train=train, device={"backend": "ref"})
        self.train(config, "one")
        one = self.overlaps("one")
        self.assertEqual(sorted(one), [2, 4, 6, 8])
        self.assertTrue(all(0 <= x <= 1 for v in one.values() for x in v) and any(x < 1 for v in one.values() for x in v), one)
        for mean, *layers in one.values():
            self.assertAlmostEqual(mean, sum(layers) / 2, places=12)
        self.train(self.config("b.yaml", train=train, device={"backend": "ref"}, parallel={"ep": 2}), "two", ranks=2)
        self.assertEqual(self.overlaps("two"), one)
        self.rewind("one", "again", 3)
        self.train(config, "again", "--resume")
        self.same_records("again", "one")

    def test_other_data_is_not_compared(self):
        self.train(self.config("a.yaml", train={"steps": 3, "probe_every": 1}), "run")
        data = f"data.train=[{{path: {self.home / 'held_out'}}}]"
        self.train(self.config("b.yaml", train={"steps": 5, "probe_every": 1}), "run", "--resume", "--set", data)
        records = self.metrics("run")
        self.assertIsNone(records[3][self.KEYS[0]])
        self.assertLessEqual(float(records[4][self.KEYS[0]]), 1)


if __name__ == "__main__":
    harness.main()
