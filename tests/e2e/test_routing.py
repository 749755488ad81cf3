#!/usr/bin/env python3
"""Every way of routing that the configuration offers trains, on ref, alike in one process and on two ranks."""

import harness

CAPACITY = {"capacity_factor": 1.0, "min_capacity": 1}


class Routing(harness.LayoutCase):
    def same(self, *choices, layout=(2, 2), **sections):
        for moe in choices:
            with self.subTest(moe):
                self.agree(1e-9, [(*layout, 1)], 4, device={"backend": "ref"},
                           **{**sections, "moe": {"experts": 4, **moe}})

    def test_scores_and_weights(self):
        self.same({"score": "sigmoid", "routed_scale": 2.5}, {"top_k": 1}, {"normalize_weights": False, "jitter": 0.1},
                  {"top_k": 4})

    def test_shared_experts_and_mixed_layers(self):
        self.same({"shared_experts": 2, "shared_gate": True, "layers": [1]}, {"expert_hidden": 16, "layers": "every:2"})

    def test_drops_and_padding(self):
        self.same({**CAPACITY, "drop_policy": "probability"}, {**CAPACITY, "pad_to_capacity": True},
                  {"capacity_factor": 0.3, "min_capacity": 1, "pad_to_capacity": True, "drop_policy": "probability"})

    def test_losses_of_every_scope(self):
        self.same({"aux_loss_scope": "micro_batch"}, {"aux_loss_scope": "sequence", "aux_loss_coeff": 0.1},
                  train={"micro_batch": 2})

    def test_aux_loss_over_the_global_batch_agrees_for_one_accumulation(self):
        # loads are taken over the micro-batches so far in the step: exact where every rank has one
        sections = {"device": {"backend": "ref"}, "moe": {"aux_loss_scope": "global_batch"},
                    "train": {"global_batch": 4, "micro_batch": 1, "steps": 4}}
        four, other = self.losses_at(4, 4, **sections), self.losses_at(4, 2, **sections)
        self.near(self.numbers(four, "train/loss", "moe/aux_loss"), self.numbers(other, "train/loss", "moe/aux_loss"), 1e-9)
        sections["moe"] = {"aux_loss_scope": "micro_batch"}
        sections["train"] = {"global_batch": 4, "micro_batch": 4, "steps": 4}
        one = self.losses_at(0, 1, **sections)
        self.near(self.numbers(four, "train/loss", "moe/aux_loss"), self.numbers(one, "train/loss", "moe/aux_loss"), 1e-9)

    def test_bias_instead_of_aux_loss(self):
        self.same({"bias_update_rate": 0.01, "aux_loss_coeff": 0, "score": "sigmoid"})

    def test_small_receive_buffer_takes_further_passes(self):
        self.same({"recv_factor": 0.05}, {"recv_factor": 0.3, **CAPACITY})

    def test_recompute_changes_nothing(self):
        for recompute in ("moe", "block"):
            self.same({"jitter": 0.1}, train={"recompute": recompute})
        config = self.config()
        for recompute in ("none", "moe", "block"):
            self.train(config, recompute, "--set", f"train.recompute={recompute}", "--set", "moe.jitter=0.1")
        self.same_records("moe", "none")
        self.same_records("block", "none")

    def test_attention_of_every_kind(self):
        self.same({}, model={"qk_norm": "full", "attention_bias": True, "tie_embeddings": True})
        self.same({}, model={"qk_norm": "head", "kv_heads": 1, "head_dim": 16}, data={"mask_documents": True})

    def test_dense_model(self):
        sections = {"moe": {"experts": 0}, "device": {"backend": "ref"}, "train": {"global_batch": 5}}
        one, three = self.losses_at(0, 1, **sections), self.losses_at(3, 1, **sections)
        self.near(self.numbers(three, "train/loss"), self.numbers(one, "train/loss"), 1e-9)
        self.assertNotIn("moe/layer_0/load", one[0])


if __name__ == "__main__":
    harness.main()
