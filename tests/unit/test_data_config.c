/* The config section `data`: defaults, entries of its lists, and what its check refuses, with the
 * line. */
#include "tests/support/data_files.h"

#include "core/alloc.h"
#include "data/data_config.h"

static sy_status parse(const char *text, sy_config **out)
{
    const sy_config_section *const sections[1] = {&sy_data_section};
    return sy_config_parse(sections, 1, text, strlen(text), "run.yaml", NULL, 0, out);
}

static void data_config_lists_give_entries_with_defaults(void **state)
{
    (void)state;
    sy_config *config = NULL;
    assert_int_equal(parse("data:\n"
                           "  mask_documents: true\n"
                           "  train:\n"
                           "    - {path: d/prose, weight: 0.5}\n"
                           "    - path: d/source\n"
                           "  valid:\n"
                           "    - {name: prose, path: d/prose_valid}\n",
                           &config),
                     SY_OK);
    const sy_data_config *data = sy_config_get(config, "data");
    assert_string_equal(data->tokenizer, "bytes");
    assert_int_equal(data->objective, SY_OBJECTIVE_CAUSAL);
    assert_true(data->mask_documents);
    assert_int_equal(data->train.n, 2);
    assert_string_equal(sy_data_train_entry(data, 0).path, "d/prose");
    assert_true(sy_data_train_entry(data, 0).weight == 0.5);
    assert_true(sy_data_train_entry(data, 1).weight == 1.0);
    assert_int_equal(data->valid.n, 1);
    assert_string_equal(sy_data_valid_entry(data, 0).name, "prose");
    assert_string_equal(sy_data_valid_entry(data, 0).path, "d/prose_valid");
    sy_config_destroy(&config);
    assert_int_equal(parse("", &config), SY_OK);
    data = sy_config_get(config, "data");
    assert_int_equal(data->train.n, 0);
    assert_int_equal(data->valid.n, 0);
    assert_false(data->mask_documents);
    sy_config_destroy(&config);
    assert_int_equal(sy_alloc_live(), 0);
}

static void data_config_parts_follow_the_split(void **state)
{
    double share[3];
    sy_config *config = NULL;
    (void)state;
    assert_int_equal(parse("data:\n"
                           "  split: [969, 30, 1]\n"
                           "  train: [{path: a}, {path: b, part: all}]\n"
                           "  valid: [{name: a, path: a}, {name: t, path: a, part: test}]\n",
                           &config),
                     SY_OK);
    const sy_data_config *data = sy_config_get(config, "data");
    sy_data_split(data, share);
    assert_true(share[0] == 969 && share[1] == 30 && share[2] == 1);
    assert_int_equal(sy_data_train_entry(data, 0).part, SY_SPLIT_TRAIN);
    assert_int_equal(sy_data_train_entry(data, 1).part, SY_SPLIT_ALL);
    assert_int_equal(sy_data_valid_entry(data, 0).part, SY_SPLIT_VALID);
    assert_int_equal(sy_data_valid_entry(data, 1).part, SY_SPLIT_TEST);
    sy_config_destroy(&config);
}

static void data_config_bad_values_are_refused_with_their_line(void **state)
{
    static const struct {
        const char *text, *line, *reason;
    } bad[] = {
        {"data:\n  objective: ul2\n", "run.yaml:2", "data.sentinels"},
        {"data:\n  objective: ul2\n  sentinels: 9\n  sentinel_id: 7\n", "run.yaml:2",
         "data.sentinel_id"},
        {"data:\n  objective: prefix_lm\n  mask_documents: true\n", "run.yaml:3", "causal"},
        {"data:\n  objective: prefix_lm\n  mode_ids: [1, 2]\n", "run.yaml:3", "3 ids, not 2"},
        {"data:\n  objective: prefix_lm\n  mode_ids: [1, 2, x]\n", "run.yaml:3", "'x' is no id"},
        {"data:\n  objective: prefix_lm\n  mode_ids: [1, 2, 1]\n", "run.yaml:3",
         "1 is given twice"},
        {"data:\n  objective: ul2\n  sentinels: 5\n  sentinel_id: 9\n  mode_ids: [1, 4, 5]\n",
         "run.yaml:5", "mode_ids: 5 is a sentinel"},
        {"data:\n  objective: ul2\n  sentinels: 5\n  sentinel_id: 9\n  mode_ids: [9, 10, 4]\n",
         "run.yaml:5", "mode_ids: 9 is a sentinel"},
        {"data:\n  objective: ul2\n  sentinels: 5\n  sentinel_id: 9\n  eod: 5\n", "run.yaml:5",
         "eod: 5 is a sentinel, too (5 .. 9)"},
        {"data:\n  train:\n    - {path: a, weight: 1e308}\n    - {path: b, weight: 1e308}\n",
         "run.yaml:", "not finite"},
        {"data:\n  split: [1e308, 1e308, 1]\n", "run.yaml:2", "data.split"},
        {"data:\n  mask_documents: true\n  tokenizer: byte\n", "run.yaml:3",
         "did you mean 'bytes'"},
        {"data:\n  train:\n    - {path: a, weight: -1}\n", "run.yaml:", "weight '-1'"},
        {"data:\n  train:\n    - {path: a, weight: heavy}\n", "run.yaml:", "weight 'heavy'"},
        {"data:\n  train:\n    - {path: ''}\n", "run.yaml:", "no path"},
        {"data:\n  train:\n    - {weight: 1}\n", "run.yaml:", "path"},
        {"data:\n  valid:\n    - {name: a, path: x}\n    - {name: a, path: y}\n",
         "run.yaml:", "given twice"},
        {"data:\n  valid:\n    - {name: a/b, path: x}\n", "run.yaml:", "'a/b'"},
        {"data:\n  split: [969, 31]\n", "run.yaml:2", "three shares"},
        {"data:\n  split: [0, 0, 0]\n", "run.yaml:2", "three shares"},
        {"data:\n  split: [9, -1, 0]\n", "run.yaml:2", "'-1' is no share"},
        {"data:\n  split: [9, half, 0]\n", "run.yaml:2", "'half' is no share"},
        {"data:\n  train:\n    - {path: a, part: valid}\n", "run.yaml:", "needs data.split"},
        {"data:\n  split: [8, 1, 1]\n  train:\n    - {path: a, part: rest}\n",
         "run.yaml:", "'rest' is none of train, valid, test, all"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sy_config *config = NULL;
        data_expect_error(parse(bad[i].text, &config), SY_ERR_USAGE, bad[i].line, bad[i].reason);
        assert_null(config);
    }
    assert_int_equal(sy_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_config_lists_give_entries_with_defaults),
        cmocka_unit_test(data_config_parts_follow_the_split),
        cmocka_unit_test(data_config_bad_values_are_refused_with_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
