/* What a configuration may not ask of a router, and that what it may is accepted again when it was
   written out. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/support/router_config.h"

typedef struct refusal {
    const char *set[5], *says;
} refusal;

static void settings_that_do_not_go_together_are_refused(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {{"moe.router=sinkhorn", "moe.aux_loss_coeff=0.01"}, "set it to 0"},
        {{"moe.router=expert_choice"}, "moe.look_ahead"},
        {{"moe.router=remoe", "moe.capacity_factor=1.25"}, "set it to null"},
        {{"moe.router=remoe", "moe.eval_capacity_factor=1.25"}, "moe.eval_capacity_factor"},
        {{"moe.router=remoe", "moe.normalize_weights=true"}, "leave it at false"},
        {{"moe.router=remoe", "moe.aux_loss_scope=global_batch"}, "sequence"},
        {{"moe.router=top_p", "moe.score=sigmoid"}, "leave it at softmax"},
        {{"moe.remoe.alpha=1.3"}, "belongs to the router 'remoe'"},
        {{"moe.router=yuan", "moe.hash.seed=4"}, "set moe.router to hash"},
        {{"moe.router=gshard", "moe.top_k=1"}, "set it to 2"},
        {{"moe.router=gshard", "moe.aux_loss_scope=global_batch"}, "micro_batch"},
        {{"moe.router=grouped", "moe.grouped.groups=3"}, "set it to 2"},
        {{"moe.router=grouped", "moe.grouped.groups=4"}, "at least 2"},
        {{"moe.router=prototype", "moe.top_k=3"}, "set moe.top_k to 2"},
        {{"moe.router=maskmoe", "moe.maskmoe.visible=1"}, "set it to 2 to 4"},
        {{"moe.router=hash", "moe.jitter=0.1"}, "set it to 0"},
        {{"moe.top_k=5"}, "set it to 4"},
        {{"moe.router=noisy", "moe.bias_update_rate=0.1"}, "topk or grouped"},
        {{"moe.router=noisy", "moe.force_balance=true"}, "topk"},
        {{"moe.router=adamoe", "moe.top_k=1"}, "no gradient"},
        {{"moe.router=dynmoe", "moe.dynmoe.start_experts=5"}, "set it to 4"},
        {{"moe.router=dynmoe", "moe.capacity_factor=1.25"}, "set it to null"},
        {{"moe.router=dynmoe", "moe.aux_loss_coeff=0.01"}, "set it to 0"},
        {{"moe.router=moepp", "moe.score=sigmoid"}, "set it to softmax"},
        {{"moe.router=moepp", "moe.aux_loss_scope=global_batch"}, "sequence"},
        {{"moe.router=stable", "moe.top_k=2"}, "set it to 1"},
        {{"moe.router=stable", "moe.aux_loss_coeff=0.01"}, "set it to 0"},
        {{"moe.router=base", "moe.top_k=2"}, "set it to 1"},
        {{"moe.router=base", "moe.aux_loss_coeff=0.01"}, "set it to 0"},
        {{"moe.expert_widths=[3, 4]"}, "lists 2 widths for moe.experts 4"},
        {{"moe.expert_widths=harmonic:3:4"}, "arithmetic:FIRST:LAST"},
        {{"moe.expert_widths=arithmetic:3:9", "moe.expert_hidden=8"}, "has 9 units"},
        {{"moe.expert_widths=geometric:3:9", "moe.adapter_rank=2"}, "moe.adapter_rank 2"},
        {{"moe.width_penalty=true"}, "needs moe.expert_widths"},
        {{"moe.capacity_scope=global", "moe.capacity_group=64"}, "set capacity_scope to rank"},
        {{"moe.router=expert_choice", "moe.look_ahead=true", "moe.capacity_scope=global"},
         "moe.capacity_scope with moe.router expert_choice"},
        {{"moe.router=remoe", "moe.drop_policy=probability"}, "leave it out"},
        {{"moe.capacity_rounding=per_choice", "moe.capacity_basis=token"}, "use floor"},
        {{"moe.drop_weights=renormalize", "moe.top_k=1"}, "set it to keep"},
        {{"moe.drop_weights=renormalize", "moe.normalize_weights=false"}, "set that to true"},
        {{"moe.drop_weights=renormalize", "moe.router=top_p"}, "what the method says"},
        {{"moe.aux_loss_counts=first", "moe.aux_loss_scope=global_batch"}, "sequence or micro_bat"},
        {{"moe.router=adamoe", "moe.top_k=2", "moe.aux_loss_counts=first"}, "set it to all"},
        {{"moe.router=moepp", "moe.capacity_group=4"}, "leave it out"},
        {{"moe.top_k=1", "moe.normalize_weights=true"}, "set it to false"},
        {{"moe.router=soft", "moe.top_k=2"}, "set it to 4"},
        {{"moe.router=soft", "moe.capacity_factor=1"}, "set it to null"},
        {{"moe.adapter_kind=molora", "moe.adapter_rank=2"}, "set moe.router to soft"},
        {{"moe.router=soft", "moe.adapter_kind=molora"}, "needs moe.adapter_rank"},
        {{"moe.adapter_base=nf4"}, "needs adapters"},
        {{"moe.adapter_base=nf4", "moe.adapter_rank=2", "moe.expert_hidden=12"}, "multiples of 8"},
        {{"moe.adapter_kind=bottleneck"}, "needs moe.adapter_rank"},
        {{"moe.router=soft", "moe.adapter_kind=mov", "moe.adapter_rank=2"}, "set it to 0"},
        {{"moe.adapter_attention=true"}, "set the kind to mov"},
        {{"moe.adapter_rank=2", "model.activation=geglu"}, "set model.activation to swiglu"},
        {{"moe.router=soft", "moe.adapter_kind=mov", "model.activation=gelu"},
         "leave the adapters"},
        {{"moe.expert_widths=arithmetic:5:8", "model.activation=relu"}, "leave the widths out"},
        {{"moe.router=sinkhron"}, "did you mean 'sinkhorn'"},
        {{"moe.router=remoe", "moe.pad_to_capacity=true"}, "set it to false"},
        {{"moe.router=adamoe", "moe.experts=1", "moe.top_k=1"}, "set it to 2 or more"},
        {{"moe.drop_policy=probability"}, "set capacity_factor (1.25"},
        {{"moe.router=grouped", "moe.capacity_scope=global"}, "set capacity_factor (1.25"},
        {{"moe.adapter_kind=lora"}, "needs moe.adapter_rank"},
        {{"moe.shared_hidden=8"}, "needs moe.shared_experts"},
        {{"moe.bias_update_steps=8"}, "needs moe.bias_update_rate"},
        {{"model.rope_factor=4"}, "needs model.rope_scaling"},
        {{"model.depth_layers=all"}, "without model.depth_capacity"},
        {{"model.depth_predictor_coeff=0.1"}, "without model.depth_capacity"},
        {{"model.peer_heads=4"}, "without model.peer_keys"},
        {{"model.peer_layers=[0]"}, "without model.peer_keys"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_config *config = NULL;
        const char *set[8] = {"moe.experts=4"};
        memcpy(set + 1, cases[i].set, sizeof cases[i].set);
        assert_int_equal(configure(set, &config), SY_ERR_USAGE);
        if (strstr(sy_error_message(), cases[i].says) == NULL) {
            fail_msg("'%s' is not in: %s", cases[i].says, sy_error_message());
        }
        sy_error_clear();
        sy_config_destroy(&config);
    }
}

/* What switches a part off by name, as a checkpoint does, leaves its other keys where they are. */
static void keys_of_what_is_switched_off_by_name_are_accepted(void **state)
{
    (void)state;
    static const char *const sets[][4] = {
        {"moe.experts=4", "moe.drop_policy=batch_priority", "moe.capacity_factor=null"},
        {"moe.experts=4", "moe.capacity_group=64", "moe.eval_capacity_factor=2"},
        {"moe.experts=4", "moe.adapter_kind=lora", "moe.adapter_rank=0"},
        {"moe.experts=4", "model.depth_layers=all", "model.depth_capacity=null"},
        {"moe.experts=4", "model.peer_top_k=4", "model.peer_keys=0"}};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        sy_config *config = NULL;
        assert_int_equal(configure(sets[i], &config), SY_OK);
        sy_config_destroy(&config);
    }
}

/* A checkpoint holds every section: what it says of other routers are their defaults. */
static void configuration_written_out_is_accepted_again(void **state)
{
    (void)state;
    const char *const *names = sy_router_names();
    for (int32_t i = 0; names[i] != NULL; i++) {
        sy_config *config = NULL, *again = NULL;
        char name[64], *text = NULL;
        int32_t n = 0;
        const sy_config_section *const *all = router_sections(&n);
        snprintf(name, sizeof name, "moe.router=%s", names[i]);
        assert_int_equal(configure(SET(name, "moe.look_ahead=true"), &config), SY_OK);
        assert_int_equal(sy_config_echo(config, &text), SY_OK);
        assert_int_equal(sy_config_parse(all, n, text, strlen(text), "again", NULL, 0, &again),
                         SY_OK);
        assert_int_equal(sy_moe_config_resolve(again, 1, 8), SY_OK);
        sy_config_destroy(&again);
        sy_config_destroy(&config);
        sy_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_that_do_not_go_together_are_refused),
        cmocka_unit_test(keys_of_what_is_switched_off_by_name_are_accepted),
        cmocka_unit_test(configuration_written_out_is_accepted_again),
    };
    return cmocka_run_group_tests_name("router_settings", tests, NULL, NULL);
}
