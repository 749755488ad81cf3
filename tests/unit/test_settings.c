/* The whole configuration: combinations of sections that are refused, and what may change on
   resume (INTERFACES section 6, "Resume"). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/alloc.h"
#include "train/train_config.h"

static const char text[] =
    "model: {vocab_size: 256, hidden: 16, layers: 3, heads: 2, ffn_hidden: 24, seq_len: 8,"
    "        mtp_layers: 1}\n"
    "moe: {experts: 4, top_k: 2}\n"
    "train: {steps: 100, batch_ramp_from: 0}\n";

static sy_status parse(const char *set, sy_run_settings *out)
{
    return sy_run_settings_parse(text, sizeof text - 1, "c.yaml", &set, set != NULL, out);
}

static void combinations_that_cannot_be_are_refused_by_key(void **state)
{
    static const struct {
        const char *set, *says;
    } bad[] = {
        {"moe.layers=[]", "moe.layers names none"},
        {"moe.layers=every:4", "moe.layers names none"},
        {"moe.layers=[3]", "there is no layer 3"},
        {"moe.layers=[-1]", "moe.layers '-1'"},
        {"moe.layers=some", "moe.layers 'some'"},
        {"moe.layers=from:0", "moe.layers 'from:0'"},
        {"moe.layers=from:3", "moe.layers names none"},
        {"moe.top_k=5", "moe.top_k 5"},
        {"moe.pad_to_capacity=true", "moe.capacity_factor"},
        {"moe.router=topp", "did you mean 'topk'"},
        {"model.vocab_size=255", "model.vocab_size 255"},
        {"model.heads=16", "model.head_dim 1 is odd"},
        {"model.v_head_dim=8", "set model.kv_lora_rank too"},
        {"model.kv_lora_rank=8", "which needs model.qk_nope_head_dim"},
        {"optim.schedule=phases", "optim.phases and optim.schedule phases go together"},
        {"optim.phases=[1 constant 1]", "optim.phases and optim.schedule phases go together"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sy_run_settings s = {0};
        assert_int_equal(parse(bad[i].set, &s), SY_ERR_USAGE);
        if (strstr(sy_error_message(), bad[i].says) == NULL) {
            fail_msg("%s: %s", bad[i].set, sy_error_message());
        }
        sy_error_clear();
        assert_null(s.config);
    }
}

static void micro_batch_of_too_many_rows_is_refused(void **state)
{
    const char *set[] = {"train.micro_batch=128", "model.seq_len=8388608"};
    sy_run_settings s = {0};
    (void)state;
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", set, 2, &s),
                     SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "train.micro_batch 128"));
    sy_error_clear();
    set[0] = "train.micro_batch=127";
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", set, 2, &s), SY_OK);
    sy_run_settings_free(&s);
}

static void chunks_of_padded_rows_are_refused(void **state)
{
    const char *set[] = {"parallel.overlap_chunks=2", "moe.capacity_factor=1.0",
                         "moe.pad_to_capacity=true"};
    sy_run_settings s = {0};
    (void)state;
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", set, 3, &s),
                     SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "parallel.overlap_chunks 2 with moe.pad_to"));
    sy_error_clear();
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", set, 2, &s), SY_OK);
    sy_run_settings_free(&s);
}

/* A resume with this change in the file, or (named) by --set. */
static void check_change(const char *set, bool named, bool allowed)
{
    sy_run_settings old = {0}, now = {0};
    char *changes = NULL;
    sy_status st;
    assert_int_equal(parse(NULL, &old), SY_OK);
    assert_int_equal(parse(set, &now), SY_OK);
    st = sy_run_settings_compatible(&old, &now, &set, named, &changes);
    if ((st == SY_OK) != allowed) {
        fail_msg("%s, %s: %s", set, named ? "named" : "silent",
                 st == SY_OK ? "allowed" : sy_error_message());
    }
    if (st == SY_OK) { /* and told, key first */
        assert_memory_equal(changes, set, strcspn(set, "="));
    } else {
        size_t n = strcspn(set, "=");
        char key[64] = {0};
        memcpy(key, set, n);
        assert_int_equal(st, SY_ERR_USAGE);
        assert_non_null(strstr(sy_error_message(), key));
    }
    sy_error_clear();
    sy_free(&changes);
    sy_run_settings_free(&now);
    sy_run_settings_free(&old);
}

static void resume_shapes_seed_and_tokenizer_never_change(void **state)
{
    static const char *const fixed[] = {
        "model.vocab_size=300", "model.hidden=32",      "model.ffn_hidden=32",
        "model.qk_norm=head",   "model.rope_theta=500", "model.tie_embeddings=true",
        "moe.experts=8",        "moe.expert_hidden=8",  "moe.layers=[1]",
        "moe.score=sigmoid",    "moe.shared_experts=1", "run.seed=2",
        "optim.name=adafactor", "moe.extra_ffn=true",   "model.activation=relu"};
    (void)state;
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        check_change(fixed[i], true, false);
        check_change(fixed[i], false, false);
    }
}

static void resume_course_of_training_changes_by_name_only(void **state)
{
    static const char *const by_name[] = {"optim.lr=0.1",
                                          "optim.betas=[0.8, 0.9]",
                                          "optim.schedule=linear",
                                          "moe.top_k=3",
                                          "moe.capacity_factor=1.5",
                                          "moe.aux_loss_coeff=0.5",
                                          "train.global_batch=4",
                                          "train.micro_batch=2",
                                          "train.batch_ramp_tokens=2",
                                          "train.mtp_phases=[1 constant 0.5]",
                                          "model.mtp_loss_coeff=0.1",
                                          "data.mask_documents=true",
                                          "model.output_z_loss_coeff=1e-4"};
    (void)state;
    for (size_t i = 0; i < sizeof by_name / sizeof by_name[0]; i++) {
        check_change(by_name[i], true, true);
        check_change(by_name[i], false, false);
    }
}

static void resume_layout_device_and_intervals_change_freely(void **state)
{
    static const char *const is_free[] = {
        "parallel.ep=2",     "parallel.zero=0",       "device.backend=ref",
        "device.threads=3",  "train.eval_every=7",    "train.checkpoint_every=7",
        "train.log_every=7", "train.recompute=block", "run.name=other"};
    (void)state;
    for (size_t i = 0; i < sizeof is_free / sizeof is_free[0]; i++) {
        check_change(is_free[i], false, true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(combinations_that_cannot_be_are_refused_by_key),
        cmocka_unit_test(micro_batch_of_too_many_rows_is_refused),
        cmocka_unit_test(chunks_of_padded_rows_are_refused),
        cmocka_unit_test(resume_shapes_seed_and_tokenizer_never_change),
        cmocka_unit_test(resume_course_of_training_changes_by_name_only),
        cmocka_unit_test(resume_layout_device_and_intervals_change_freely),
    };
    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
