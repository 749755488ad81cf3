/* The loader, on files whose token at position p is base + p: an id tells where it came from. */
#include "tests/support/data_files.h"

#include <fcntl.h>
#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "data/loader.h"

enum { S = 4, VOCAB = 1 << 20 };

static int setup(void **state)
{
    *state = data_dir_open();
    return 0;
}

static int teardown(void **state)
{
    data_dir_close(*state);
    assert_int_equal(sy_alloc_live(), 0);
    return 0;
}

/* One training file of 20 whole sequences and 3 tokens over, in one document. */
static const char *counting_file(data_dir *dir)
{
    const int32_t length = 20 * S + 3;
    const char *prefix = data_path(dir, "train");
    data_write_counting(prefix, 1000, &length, 1);
    return prefix;
}

static sy_loader *open_loader(const sy_loader_spec *spec)
{
    sy_loader *loader = NULL;
    assert_int_equal(sy_loader_create(spec, &loader), SY_OK);
    return loader;
}

/* What one step's micro-batches of one rank put at each place of the global batch; a place filled
 * twice fails. */
static void gather(const sy_step_batch *step, int32_t *ids, int32_t *targets, int32_t *pos)
{
    int64_t n = 0;
    for (int32_t m = 0; m < step->n_micro; m++) {
        const sy_batch *b = &step->micro[m];
        assert_int_equal(b->S, S);
        for (int32_t i = 0; i < b->B * b->S; i++) {
            int64_t at = b->token_glb[i];
            assert_int_equal(ids[at], -7);
            ids[at] = b->ids[i];
            targets[at] = b->targets[i];
            pos[at] = b->pos[i];
            n += b->targets[i] >= 0;
        }
    }
    assert_int_equal(n, step->loss_tokens);
    assert_int_equal(n, step->routed_tokens);
}

/* Seven sequences a step: the same tokens at the same places however they are dealt. */
static void loader_any_ranks_and_micro_batch_give_one_global_batch(void **state)
{
    enum { G = 7, STEPS = 3 };
    const sy_loader_dataset data = {counting_file(*state), 1, SY_SPLIT_ALL};
    sy_loader_spec spec = {.datasets = &data,
                           .n_datasets = 1,
                           .seed = 3,
                           .file.vocab_size = VOCAB,
                           .S = S,
                           .global_batch = G};
    int32_t first[STEPS * G * S];
    bool seen[20] = {false};
    const int32_t sizes[5] = {1, 2, 3, 5, 8}, micro[4] = {1, 2, 3, 7};
    bool have_first = false, idle_round = false;
    for (int c = 0; c < 20; c++) {
        spec.dp_size = sizes[c / 4];
        spec.B = micro[c % 4];
        const int32_t rounds = (G + spec.B * spec.dp_size - 1) / (spec.B * spec.dp_size);
        int32_t ids[STEPS * G * S], targets[STEPS * G * S], pos[STEPS * G * S];
        for (int i = 0; i < STEPS * G * S; i++) {
            ids[i] = -7;
        }
        for (spec.dp_rank = 0; spec.dp_rank < spec.dp_size; spec.dp_rank++) {
            sy_loader *loader = open_loader(&spec);
            assert_int_equal(sy_loader_n_sequences(loader), 20);
            for (int step = 0; step < STEPS; step++) {
                const sy_step_batch *batch = NULL;
                assert_int_equal(sy_loader_take(loader, step * G, &batch), SY_OK);
                assert_int_equal(batch->n_micro, rounds);
                assert_int_equal(batch->n_sequences, G);
                gather(batch, ids + step * G * S, targets + step * G * S, pos + step * G * S);
                for (int32_t m = 0; m < rounds; m++) {
                    int32_t j = m * spec.dp_size + spec.dp_rank, left = G - j * spec.B;
                    assert_int_equal(batch->micro[m].B, left < 0        ? 0
                                                        : left < spec.B ? left
                                                                        : spec.B);
                    assert_null(batch->micro[m].doc);
                    assert_null(batch->micro[m].routed);
                    idle_round = idle_round || left <= 0;
                }
            }
            sy_loader_destroy(&loader);
        }
        for (int i = 0; i < STEPS * G * S; i++) {
            assert_int_equal(targets[i], ids[i] + 1);
            assert_int_equal(ids[i], ids[i - i % S] + i % S);
            assert_int_equal((ids[i - i % S] - 1000) % S, 0);
            assert_int_equal(pos[i], i % S);
        }
        if (!have_first) {
            memcpy(first, ids, sizeof first);
            have_first = true;
        }
        assert_memory_equal(first, ids, sizeof first);
    }
    assert_true(idle_round);
    /* 20 sequences: an epoch is all but the last of the three steps' 21. */
    for (int i = 0; i < 20; i++) {
        int32_t sequence = (first[i * S] - 1000) / S;
        assert_in_range(sequence, 0, 19);
        assert_false(seen[sequence]);
        seen[sequence] = true;
    }
}

static void loader_resumed_anywhere_continues_the_run(void **state)
{
    enum { G = 3, STEPS = 12 };
    const sy_loader_dataset data[2] = {{counting_file(*state), 1, SY_SPLIT_ALL},
                                       {data_path(*state, "other"), 2.5, SY_SPLIT_ALL}};
    const int32_t lengths[2] = {9, 30};
    data_write_counting(data[1].path, 5000, lengths, 2);
    const sy_loader_spec spec = {.datasets = data,
                                 .n_datasets = 2,
                                 .file.vocab_size = VOCAB,
                                 .S = S,
                                 .B = 2,
                                 .global_batch = G,
                                 .dp_size = 1};
    int32_t whole[STEPS][G * S];
    const sy_step_batch *batch = NULL;
    sy_loader *loader = open_loader(&spec);
    for (int step = 0; step < STEPS; step++) {
        assert_int_equal(sy_loader_take(loader, step * G, &batch), SY_OK);
        assert_int_equal(batch->position, step * G);
        memcpy(whole[step], batch->micro[0].ids, 2 * S * sizeof(int32_t));
        memcpy(whole[step] + 2 * S, batch->micro[1].ids, S * sizeof(int32_t));
    }
    /* Back and forth in the one that has prefetched something else, and in a fresh one. */
    const int64_t order[5] = {5, 5, 0, 11, 6};
    for (int fresh = 0; fresh < 2; fresh++) {
        for (int i = 0; i < 5; i++) {
            if (fresh) {
                sy_loader_destroy(&loader);
                loader = open_loader(&spec);
            }
            assert_int_equal(sy_loader_take(loader, order[i] * G, &batch), SY_OK);
            assert_memory_equal(batch->micro[0].ids, whole[order[i]], 2 * S * sizeof(int32_t));
            assert_memory_equal(batch->micro[1].ids, whole[order[i]] + 2 * S, S * sizeof(int32_t));
        }
    }
    sy_loader_destroy(&loader);
}

/* Steps of other sizes go through the same sequences, whether the one before had promised their
   size or another. */
static void loader_steps_of_any_size_go_on_where_the_last_ended(void **state)
{
    enum { G = 5, N = 6, RANKS = 2 };
    const sy_loader_dataset data = {counting_file(*state), 1, SY_SPLIT_ALL};
    const int32_t size[N + 1] = {1, 1, 3, 5, 4, 5, 1};
    sy_loader_spec spec = {.datasets = &data,
                           .n_datasets = 1,
                           .file.vocab_size = VOCAB,
                           .S = S,
                           .B = 1,
                           .global_batch = G,
                           .dp_size = RANKS};
    for (int promise = 0; promise < 2; promise++) {
        int32_t first[20] = {0};
        for (spec.dp_rank = 0; spec.dp_rank < RANKS; spec.dp_rank++) {
            sy_loader *loader = open_loader(&spec);
            const sy_step_batch *batch = NULL;
            int64_t at = 0;
            for (int i = 0; i < N; at += size[i++]) {
                const int32_t next = promise ? size[i + 1] : 1 + size[i + 1] % G;
                assert_int_equal(sy_loader_take_sized(loader, at, size[i], next, &batch), SY_OK);
                assert_int_equal(batch->position, at);
                assert_int_equal(batch->n_sequences, size[i]);
                assert_int_equal(batch->n_micro, (size[i] + RANKS - 1) / RANKS);
                for (int32_t m = 0; m < batch->n_micro; m++) {
                    if (batch->micro[m].B > 0) {
                        const int64_t k = at + batch->micro[m].token_glb[0] / S;
                        assert_int_equal(first[k], 0);
                        first[k] = batch->micro[m].ids[0];
                    }
                }
            }
            assert_int_equal(sy_loader_take_sized(loader, 0, G + 1, 1, &batch), SY_ERR_INTERNAL);
            sy_error_clear();
            sy_loader_destroy(&loader);
        }
        bool seen[20] = {false};
        for (int i = 0; i < 19; i++) { /* of an epoch of 20: each once */
            assert_in_range(first[i], 1000, 1000 + 19 * S);
            assert_false(seen[(first[i] - 1000) / S]);
            seen[(first[i] - 1000) / S] = true;
        }
    }
}

static void loader_warm_take_allocates_nothing(void **state)
{
    const sy_loader_dataset data = {counting_file(*state), 1, SY_SPLIT_ALL};
    const sy_loader_spec spec = {.datasets = &data,
                                 .n_datasets = 1,
                                 .file.vocab_size = VOCAB,
                                 .S = S,
                                 .B = 1,
                                 .global_batch = 2,
                                 .dp_size = 1};
    const sy_step_batch *batch = NULL;
    sy_loader *loader = open_loader(&spec);
    assert_int_equal(sy_loader_take(loader, 0, &batch), SY_OK);
    int64_t before = sy_alloc_total();
    for (int64_t step = 1; step < 200; step++) {
        assert_int_equal(sy_loader_take(loader, 2 * step, &batch), SY_OK);
    }
    assert_int_equal(sy_alloc_total(), before);
    sy_loader_destroy(&loader);
}

/* Documents of 6, 1, 1 and 9 tokens; sequences of 4: borders inside and at the edge of sequences.
 */
static void loader_masked_documents_restart_number_and_position(void **state)
{
    const int32_t lengths[4] = {6, 1, 1, 9}, base = 100;
    const char *prefix = data_path(*state, "docs");
    data_write_counting(prefix, base, lengths, 4);
    const sy_loader_dataset data = {prefix, 1, SY_SPLIT_ALL};
    const sy_loader_spec spec = {.datasets = &data,
                                 .n_datasets = 1,
                                 .sequential = true,
                                 .file.vocab_size = VOCAB,
                                 .S = S,
                                 .B = 4,
                                 .global_batch = 4,
                                 .dp_size = 1,
                                 .mask_documents = true};
    const int32_t doc[16] = {0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0};
    const int32_t pos[16] = {0, 1, 2, 3, 0, 1, 0, 0, 0, 1, 2, 3, 0, 1, 2, 3};
    const sy_step_batch *batch = NULL;
    sy_loader *loader = open_loader(&spec);
    assert_int_equal(sy_loader_take(loader, 0, &batch), SY_OK);
    assert_int_equal(batch->micro[0].B, 4);
    assert_memory_equal(batch->micro[0].doc, doc, sizeof doc);
    assert_memory_equal(batch->micro[0].pos, pos, sizeof pos);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(batch->micro[0].ids[i], base + i);
        assert_int_equal(batch->micro[0].targets[i], base + i + 1);
    }
    sy_loader_destroy(&loader);
}

/* A stream without an index: 9 ends a document. Sequences begin where they begin, whatever document
   that is in. */
static void loader_documents_of_a_raw_file_end_after_eod(void **state)
{
    const uint16_t tokens[13] = {1, 2, 9, 3, 9, 9, 4, 5, 6, 7, 9, 8, 1};
    const char *path = data_path(*state, "raw.bin");
    data_write(path, tokens, sizeof tokens);
    const sy_loader_dataset data = {path, 1, SY_SPLIT_ALL};
    sy_loader_spec spec = {.datasets = &data,
                           .n_datasets = 1,
                           .sequential = true,
                           .file = {.vocab_size = 10, .has_eod = true, .eod = 9},
                           .S = S,
                           .B = 3,
                           .global_batch = 3,
                           .dp_size = 1,
                           .mask_documents = true};
    const int32_t doc[12] = {0, 0, 0, 1, 0, 1, 2, 2, 0, 0, 0, 1};
    const int32_t pos[12] = {0, 1, 2, 0, 0, 0, 0, 1, 0, 1, 2, 0};
    const sy_step_batch *batch = NULL;
    sy_loader *loader = open_loader(&spec);
    assert_int_equal(sy_loader_take(loader, 0, &batch), SY_OK);
    assert_memory_equal(batch->micro[0].doc, doc, sizeof doc);
    assert_memory_equal(batch->micro[0].pos, pos, sizeof pos);
    sy_loader_destroy(&loader);
    spec.file.has_eod = false;
    data_expect_error(sy_loader_create(&spec, &loader), SY_ERR_USAGE, "raw.bin", "data.eod");
}

/* Eight documents of 5 tokens, split 4 : 3 : 1; tokens are their own numbers. Training in either
   order and validation see their part alone; validation all of it, training but for a rest that
   makes no sequence. */
static void loader_parts_of_a_split_share_no_token(void **state)
{
    static const int32_t lengths[8] = {5, 5, 5, 5, 5, 5, 5, 5};
    static const struct {
        sy_split_part part;
        bool sequential;
        int64_t megatron_samples;
        int32_t first, end;
    } cases[] = {{SY_SPLIT_TRAIN, false, 0, 0, 20},
                 {SY_SPLIT_TRAIN, false, 30, 0, 20},
                 {SY_SPLIT_VALID, true, 0, 20, 35},
                 {SY_SPLIT_TEST, true, 0, 35, 40},
                 {SY_SPLIT_ALL, true, 0, 0, 40}};
    const char *prefix = data_path(*state, "split");
    data_write_counting(prefix, 0, lengths, 8);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const sy_loader_dataset data = {prefix, 1, cases[c].part};
        const sy_loader_spec spec = {.datasets = &data,
                                     .n_datasets = 1,
                                     .sequential = cases[c].sequential,
                                     .megatron_samples = cases[c].megatron_samples,
                                     .split = {4, 3, 1},
                                     .file.vocab_size = 40,
                                     .S = S,
                                     .B = 1,
                                     .global_batch = 1,
                                     .dp_size = 1};
        bool seen[40] = {false};
        const sy_step_batch *batch = NULL;
        sy_loader *loader = open_loader(&spec);
        for (int64_t k = 0; k < 30; k++) {
            assert_int_equal(sy_loader_take(loader, k, &batch), SY_OK);
            for (int32_t t = 0; t < (batch->n_micro > 0 ? S : 0); t++) {
                const bool real = batch->micro[0].targets[t] >= 0;
                if (real) {
                    seen[batch->micro[0].targets[t]] = seen[batch->micro[0].ids[t]] = true;
                }
            }
        }
        for (int32_t i = 0; i < 40; i++) {
            const bool inside = i >= cases[c].first && i < cases[c].end;
            assert_true(inside ? seen[i] || i > cases[c].end - S : !seen[i]);
            assert_true(seen[i] == inside || !cases[c].sequential);
        }
        sy_loader_destroy(&loader);
    }
}

/* 11 tokens are 10 targets: sequences of 4, 4 and 2. Two a step: the second step has one, and it is
 * partial. */
static void loader_validation_covers_each_target_once_in_order(void **state)
{
    const int32_t length = 11, base = 50;
    const char *prefix = data_path(*state, "valid");
    data_write_counting(prefix, base, &length, 1);
    const sy_loader_dataset data = {prefix, 1, SY_SPLIT_ALL};
    sy_loader_spec spec = {.datasets = &data,
                           .n_datasets = 1,
                           .sequential = true,
                           .file.vocab_size = base + length,
                           .S = S,
                           .B = 1,
                           .global_batch = 2,
                           .dp_size = 2};
    for (int mask = 0; mask < 2; mask++) {
        int64_t n_targets = 0;
        spec.mask_documents = mask;
        for (spec.dp_rank = 0; spec.dp_rank < 2; spec.dp_rank++) {
            const sy_step_batch *batch = NULL;
            sy_loader *loader = open_loader(&spec);
            assert_int_equal(sy_loader_n_sequences(loader), 3);
            for (int64_t at = 0; at < 3; at += batch->n_sequences) {
                assert_int_equal(sy_loader_take(loader, at, &batch), SY_OK);
                assert_int_equal(batch->n_micro, 1);
                assert_int_equal(batch->n_sequences, at == 0 ? 2 : 1);
                const sy_batch *b = &batch->micro[0];
                assert_int_equal(b->B, at == 2 && spec.dp_rank == 1 ? 0 : 1);
                for (int32_t i = 0; i < b->B * S; i++) {
                    int64_t p = at * S + b->token_glb[i];
                    assert_int_equal(b->targets[i], p < 10 ? base + p + 1 : -1);
                    assert_int_equal(b->ids[i], p < 10 ? base + p : 0);
                    assert_int_equal(b->routed[i], p < 10);
                }
                n_targets += batch->loss_tokens;
            }
            assert_int_equal(sy_loader_take(loader, 3, &batch), SY_OK);
            assert_int_equal(batch->n_micro, 0);
            assert_int_equal(batch->n_sequences, 0);
            sy_loader_destroy(&loader);
        }
        assert_int_equal(n_targets, 10);
    }
}

static void poke(const char *prefix, int64_t position, int32_t id)
{
    char path[160];
    snprintf(path, sizeof path, "%s.bin", prefix);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &id, sizeof id, 4 * position), sizeof id);
    close(fd);
}

/* The thread meets a bad id in a step it prepares; the caller hears of it at that step, and not
 * before. */
static void loader_error_of_the_thread_reaches_the_take_of_its_step(void **state)
{
    const sy_loader_dataset data = {counting_file(*state), 1, SY_SPLIT_ALL};
    const sy_loader_spec spec = {.datasets = &data,
                                 .n_datasets = 1,
                                 .sequential = true,
                                 .file.vocab_size = VOCAB,
                                 .S = S,
                                 .B = 1,
                                 .global_batch = 1,
                                 .dp_size = 1};
    const sy_step_batch *batch = NULL, *before = NULL;
    sy_loader *loader = open_loader(&spec);
    poke(data.path, 2 * S + 1, VOCAB);
    assert_int_equal(sy_loader_take(loader, 0, &batch), SY_OK);
    assert_int_equal(sy_loader_take(loader, 1, &batch), SY_OK);
    before = batch;
    data_expect_error(sy_loader_take(loader, 2, &batch), SY_ERR_USAGE, "train.bin",
                      "token id 1048576 at byte 36");
    assert_ptr_equal(batch, before);
    assert_int_equal(batch->micro[0].ids[0], 1000 + S);
    data_expect_error(sy_loader_take(loader, 2, &batch), SY_ERR_USAGE, "train.bin",
                      "token id 1048576 at byte 36");
    poke(data.path, 2 * S + 1, 1000 + 2 * S + 1);
    assert_int_equal(sy_loader_take(loader, 2, &batch), SY_OK);
    assert_int_equal(batch->micro[0].ids[1], 1000 + 2 * S + 1);
    sy_loader_destroy(&loader);
}

/* A step prepared before the file changed still shows the old id. How soon that is depends on the
 * machine: wait longer each time. */
static void loader_next_step_is_prepared_before_it_is_taken(void **state)
{
    const sy_loader_dataset data = {counting_file(*state), 1, SY_SPLIT_ALL};
    const sy_loader_spec spec = {.datasets = &data,
                                 .n_datasets = 1,
                                 .sequential = true,
                                 .file.vocab_size = VOCAB,
                                 .S = S,
                                 .B = 1,
                                 .global_batch = 1,
                                 .dp_size = 1};
    const sy_step_batch *batch = NULL;
    bool old = false;
    sy_loader *loader = open_loader(&spec);
    for (int64_t k = 0; k < 19 && !old; k++) {
        assert_int_equal(sy_loader_take(loader, k, &batch), SY_OK);
        sy_clock_sleep_s(0.01 * (double)(k + 1));
        poke(data.path, (k + 1) * S, 7);
        assert_int_equal(sy_loader_take(loader, k + 1, &batch), SY_OK);
        old = batch->micro[0].ids[0] == 1000 + (int32_t)(k + 1) * S;
    }
    assert_true(old);
    sy_loader_destroy(&loader);
}

static void loader_unusable_data_is_refused(void **state)
{
    const int32_t length = S;
    const char *small = data_path(*state, "small");
    data_write_counting(small, 0, &length, 1);
    sy_loader_dataset data = {small, 1, SY_SPLIT_ALL};
    sy_loader_spec spec = {.datasets = &data,
                           .n_datasets = 1,
                           .file.vocab_size = VOCAB,
                           .S = S,
                           .B = 1,
                           .global_batch = 1,
                           .dp_size = 1};
    sy_loader *loader = NULL;
    data_expect_error(sy_loader_create(&spec, &loader), SY_ERR_USAGE, small, "too few");
    spec.file.vocab_size = 3;
    data_expect_error(sy_loader_create(&spec, &loader), SY_ERR_USAGE, "small.bin",
                      "token id 3 at byte 12");
    data.path = data_path(*state, "none");
    data_expect_error(sy_loader_create(&spec, &loader), SY_ERR_USAGE, "none.idx", "No such file");
    spec.n_datasets = 0;
    data_expect_error(sy_loader_create(&spec, &loader), SY_ERR_USAGE, "data.train",
                      "no training data");
    assert_null(loader);
}

/* Two sets by weight: one whose ids differ, one longer than what is counted, of ids that grow
   slowly from 100 on: looked at all over, so those of its end come as often as those of its
   beginning. */
static void loader_shares_of_ids_go_by_weight_and_over_the_whole_set(void **state)
{
    enum { N_IDS = 32, LONG = 3 * (SY_COUNT_TOKENS / 2) };
    const char *const path[2] = {data_path(*state, "short.bin"), data_path(*state, "long.bin")};
    const uint16_t few[8] = {5, 5, 5, 6, 6, 7, 8, 5};
    const sy_loader_dataset sets[2] = {{path[0], 3, SY_SPLIT_ALL}, {path[1], 1, SY_SPLIT_ALL}};
    const sy_loader_spec spec = {.datasets = sets,
                                 .n_datasets = 2,
                                 .file = {.vocab_size = 200, .type = "u16"},
                                 .S = S,
                                 .B = 1,
                                 .global_batch = 1,
                                 .dp_size = 1};
    double share[200], sum = 0;
    uint16_t *many = malloc(LONG * sizeof *many);
    assert_non_null(many);
    for (int64_t i = 0; i < LONG; i++) {
        many[i] = (uint16_t)(100 + i * N_IDS / LONG);
    }
    data_write(path[0], few, sizeof few);
    data_write(path[1], many, LONG * sizeof *many);
    free(many);
    sy_loader *loader = open_loader(&spec);
    assert_int_equal(sy_loader_token_shares(loader, 200, share), SY_OK);
    assert_true(fabs(share[5] - (0.75 * 4 / 8)) < 1e-15);
    assert_true(fabs(share[7] - (0.75 / 8)) < 1e-15);
    for (int32_t id = 0; id < 200; id++) {
        sum += share[id];
        if (id >= 100 && id < 100 + N_IDS) {
            assert_true(fabs(share[id] * N_IDS / 0.25 - (1)) < 0.2);
        }
    }
    assert_true(fabs(sum - (1)) < 1e-12);
    sy_loader_destroy(&loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loader_any_ranks_and_micro_batch_give_one_global_batch,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(loader_resumed_anywhere_continues_the_run, setup, teardown),
        cmocka_unit_test_setup_teardown(loader_steps_of_any_size_go_on_where_the_last_ended, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loader_warm_take_allocates_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(loader_masked_documents_restart_number_and_position, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loader_parts_of_a_split_share_no_token, setup, teardown),
        cmocka_unit_test_setup_teardown(loader_documents_of_a_raw_file_end_after_eod, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loader_validation_covers_each_target_once_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loader_error_of_the_thread_reaches_the_take_of_its_step,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(loader_next_step_is_prepared_before_it_is_taken, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loader_unusable_data_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(loader_shares_of_ids_go_by_weight_and_over_the_whole_set,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
