/* One MoE layer on several ranks: what its outputs, gradients, loads and losses must be whatever
   the layout is. Compared with the layer said plainly (tests/support/plain_moe.c), and with one
   process that is given every rank's micro-batch in turn. On ref, with uneven micro-batches. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "moe/capacity.h"
#include "moe/plan.h"
#include "tests/support/moe_rig.h"

enum { E = RIG_E, H = RIG_H, MAX_RANKS = 8 };

static rig_weights weights, moved, grads, summed, alone;
static rig_tokens tokens[MAX_RANKS];
static rig_result got, wanted;

/* Rank r has r + 1 sequences of 3 tokens, but the second rank none at all, and the third nothing
   but padding. */
static void draw(uint64_t seed)
{
    int32_t size = mpi_test_world()->size;
    rig_draw_weights(seed, &weights);
    for (int32_t r = 0; r < size; r++) {
        rig_draw_tokens(1000 * seed + (uint64_t)r, r == 1 ? 0 : r + 1, 3, &tokens[r]);
        tokens[r].masked = r == 2;
    }
}

static int64_t n_routed(void)
{
    int64_t n = 0;
    for (int32_t r = 0; r < mpi_test_world()->size; r++) {
        n += tokens[r].masked ? 0 : tokens[r].B * tokens[r].S;
    }
    return n;
}

/* Weights, this rank's tokens, gradients summed over all ranks at their places. */
static sy_status run_layer(const sy_moe_config *c, int32_t ep, const rig_weights *w)
{
    sy_status st = SY_OK;
    sy_comm *world = mpi_test_world();
    const rig_tokens *mine = &tokens[world->rank];
    moe_rig rig;
    SY_TRY(rig_open(&rig, &(rig_spec){.moe = *c, .backend = "ref", .world = world, .ep = ep}));
    SY_TRY(rig_put(&rig, w));
    SY_TRY(rig_train(&rig, mine, 1 / (double)n_routed(), &got));
    SY_TRY(rig_get_gradients(&rig, &grads));
    summed = grads;
    SY_TRY(sy_host_all_reduce(world, &summed, sizeof summed / sizeof(double), SY_F64, SY_SUM,
                              "gradients"));
cleanup:
    rig_close(&rig);
    return st;
}

/* The same by one process: the micro-batches of all ranks one after the other. */
static sy_status run_alone(const sy_moe_config *c, const rig_weights *w)
{
    sy_status st = SY_OK;
    sy_comm *self = NULL;
    rig_result result;
    moe_rig rig = {0};
    SY_TRY(sy_comm_world(false, &self));
    SY_TRY(rig_open(&rig, &(rig_spec){.moe = *c, .backend = "ref", .world = self, .ep = 1}));
    SY_TRY(rig_put(&rig, w));
    for (int32_t r = 0; r < mpi_test_world()->size; r++) {
        SY_TRY(rig_train(&rig, &tokens[r], 1 / (double)n_routed(), &result));
        if (r == mpi_test_world()->rank) {
            wanted = result;
        }
    }
    SY_TRY(rig_get_gradients(&rig, &alone));
cleanup:
    rig_close(&rig);
    sy_comm_destroy(&self);
    return st;
}

static bool same_gradients(const rig_weights *a, const rig_weights *b)
{
    return rig_gap((const double *)a, (const double *)b, sizeof *a / sizeof(double)) < 1e-12;
}

/* Every ep of this world. */
static int32_t next_ep(int32_t ep)
{
    int32_t size = mpi_test_world()->size;
    for (ep++; ep <= size && (size % ep != 0 || E % ep != 0); ep++) {
    }
    return ep;
}

typedef struct variant {
    int32_t score, top_k, scope, drop_policy;
    bool normalize, padded, shared;
    double capacity_factor, recv_factor;
} variant;

static const variant variants[] = {
    {0, 2, SY_AUX_SEQUENCE, 0, true, false, false, 0, 2},
    {0, 2, SY_AUX_MICRO_BATCH, 0, false, false, true, 0, 0.05},
    {1, 3, SY_AUX_SEQUENCE, 0, true, false, false, 0.7, 2},
    {0, 1, SY_AUX_MICRO_BATCH, 1, false, false, false, 1, 0.05},
    {0, 2, SY_AUX_SEQUENCE, 0, true, true, true, 0.7, 2},
    {1, 2, SY_AUX_SEQUENCE, 1, true, true, false, 0.7, 2},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

static sy_moe_config of_variant(const variant *v)
{
    sy_moe_config c = rig_config(E, v->top_k);
    c.score = v->score;
    c.aux_loss_scope = v->scope;
    c.drop_policy = v->drop_policy;
    c.normalize_weights = v->normalize;
    c.pad_to_capacity = v->padded;
    c.shared_experts = v->shared;
    c.capacity_factor = (sy_opt_f64){v->capacity_factor > 0, v->capacity_factor};
    c.recv_factor = v->recv_factor;
    c.aux_loss_coeff = 0.3;
    c.z_loss_coeff = 0.2;
    c.routed_scale = 1.5;
    return c;
}

static void outputs_at_any_ep_are_the_plain_sum(void **state)
{
    (void)state;
    const int32_t rank = mpi_test_world()->rank;
    for (int32_t ep = 1; ep <= mpi_test_world()->size; ep = next_ep(ep)) {
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            sy_moe_config c = of_variant(&variants[i]);
            draw(1 + (uint64_t)i);
            int64_t T = (int64_t)tokens[rank].B * tokens[rank].S;
            plain_moe(&c, &weights, &tokens[rank], sy_capacity_slots(&c, false, T), NULL,
                      1 / (double)n_routed(), &wanted);
            assert_all_ok(run_layer(&c, ep, &weights));
            assert_all(rig_gap(got.y, wanted.y, T * H) < 1e-12);
            assert_all(rig_gap(got.sums, wanted.sums, SY_N_SUMS) < 1e-12);
            assert_all(memcmp(got.load, wanted.load, sizeof got.load) == 0);
            assert_all(memcmp(got.kept, wanted.kept, sizeof got.kept) == 0);
        }
    }
}

/* Element by element, so that a factor of ep, of edp or of the number of ranks shows at once. */
static void gradients_at_any_ep_are_those_of_one_process(void **state)
{
    (void)state;
    for (int32_t ep = 1; ep <= mpi_test_world()->size; ep = next_ep(ep)) {
        for (int32_t i = 0; i < N_VARIANTS; i++) {
            sy_moe_config c = of_variant(&variants[i]);
            draw(20 + (uint64_t)i);
            assert_all_ok(run_alone(&c, &weights));
            assert_all_ok(run_layer(&c, ep, &weights));
            assert_all(same_gradients(&summed, &alone));
            assert_all(rig_gap(got.dx, wanted.dx, RIG_T * H) < 1e-12);
            assert_all(memcmp(got.y, wanted.y, sizeof got.y) == 0); /* summed in the same order */
        }
    }
}

/* Experts that move to other ranks with their router rows. */
static void experts_moved_to_other_ranks_change_nothing(void **state)
{
    (void)state;
    for (int32_t ep = 1; ep <= mpi_test_world()->size; ep = next_ep(ep)) {
        sy_moe_config c = of_variant(&variants[0]);
        int64_t load[E];
        draw(40);
        moved = weights;
        for (int32_t e = 0; e < E; e++) {
            int32_t from = (5 * e + 7) % E;
            memcpy(moved.router + e * H, weights.router + from * H, sizeof(double) * H);
            memcpy(moved.gate_up + e * RIG_GATED, weights.gate_up + from * RIG_GATED,
                   sizeof(double) * RIG_GATED);
            memcpy(moved.down + e * H * RIG_F, weights.down + from * H * RIG_F,
                   sizeof(double) * H * RIG_F);
        }
        assert_all_ok(run_layer(&c, ep, &weights));
        wanted = got;
        alone = summed;
        assert_all_ok(run_layer(&c, ep, &moved));
        for (int32_t e = 0; e < E; e++) {
            load[e] = wanted.load[(5 * e + 7) % E];
        }
        assert_all(rig_gap(got.y, wanted.y, RIG_T * H) < 1e-12);
        assert_all(rig_gap(got.dx, wanted.dx, RIG_T * H) < 1e-12);
        assert_all(rig_gap(got.sums, wanted.sums, SY_N_SUMS) < 1e-12);
        assert_all(memcmp(got.load, load, sizeof load) == 0);
        assert_all(rig_gap(summed.router + 0, alone.router + 7 * H, H) < 1e-12);
        assert_all(rig_gap(summed.down + 11 * H * RIG_F, alone.down + 2 * H * RIG_F, H * RIG_F) <
                   1e-12);
    }
}

/* ---- losses across ranks ---- */

/* The golden fixture: x is the logits, the router the identity. Its four tokens are dealt to the
   ranks from the last one back, two and two, or all to one. */
static void deal_fixture(int32_t per_rank)
{
    static const double z[4][4] = {
        {2, 1, 0.5, -1}, {0, 3, 1, -2}, {1.5, 1, -0.5, 0.25}, {-1, 0.5, 2.5, 1.25}};
    const int32_t size = mpi_test_world()->size;
    memset(weights.router, 0, sizeof weights.router);
    for (int32_t r = 0; r < size; r++) {
        int32_t first = per_rank * (size - 1 - r), n = first < 4 ? per_rank : 0;
        tokens[r] = (rig_tokens){.B = n / 2, .S = 2};
        for (int32_t t = 0; t < n; t++) {
            memcpy(tokens[r].x + t * H, z[first + t], sizeof z[0]);
        }
    }
    for (int32_t e = 0; e < 4; e++) {
        weights.router[e * H + e] = 1;
    }
}

/* Loads of the global batch, each micro-batch's own mean probability: together the loss of the
   concatenated batch. Loads of a micro-batch's own: the mean of its sequences' losses. Experts 4
   and up take no part: their logits are far below. */
static void balance_loss_of_the_fixture_dealt_to_ranks_is_golden(void **state)
{
    (void)state;
    const int32_t size = mpi_test_world()->size;
    for (int32_t ep = 1; ep <= size; ep = next_ep(ep)) {
        for (int32_t i = 0; i < 6; i++) {
            int32_t scope = i % 3, per_rank = size > 1 && i < 3 ? 2 : 4;
            bool pooled =
                scope == SY_AUX_GLOBAL_BATCH || (scope == SY_AUX_MICRO_BATCH && per_rank == 4);
            sy_moe_config c = rig_config(E, 2);
            double sums[SY_N_SUMS];
            c.aux_loss_scope = scope;
            draw(50);
            deal_fixture(per_rank);
            for (int32_t r = 0; r < size; r++) {
                for (int32_t t = 0; t < tokens[r].B * 2; t++) {
                    tokens[r].x[t * H + 4] = 1;
                }
            }
            for (int32_t e = 4; e < E; e++) {
                weights.router[e * H + 4] = -1e3;
            }
            assert_all_ok(run_layer(&c, ep, &weights));
            memcpy(sums, got.sums, sizeof sums);
            assert_all_ok(
                sy_host_all_reduce(mpi_test_world(), sums, SY_N_SUMS, SY_F64, SY_SUM, "sums"));
            /* E stands before the sum: 12 here, 4 in the fixture */
            assert_all(fabs(sums[SY_SUM_AUX] / 3 - (pooled ? 1.135112760 : 1.256809)) < 1e-6);
            assert_all(fabs(sums[SY_SUM_Z] - 7.358912753) < 1e-9);
            assert_all(fabs(sums[SY_SUM_ENTROPY] / 4 - .904038242) < 1e-9);
        }
    }
}

/* ---- who sends what to whom ---- */

typedef struct made_up {
    moe_rig rig;
    sy_choices choices;
    int32_t T, expert[RIG_T * 2];
} made_up;

/* Choices of rank r: a hole now and then; most tokens want expert 1; the last rank has none. */
static int32_t made_up_choice(int32_t r, int32_t t, int32_t k)
{
    uint64_t at = (uint64_t)((r * RIG_T + t) * 2 + k);
    uint64_t draw_of = sy_rng_u64(4, SY_RNG_TEST, at) % (E + 4);
    return draw_of < E ? (int32_t)draw_of : k == 0 ? 1 : -1;
}

static int32_t made_up_tokens(int32_t r, int32_t size)
{
    return size > 1 && r == size - 1 ? 0 : 9 + 5 * r;
}

static sy_status upload_choices(made_up *m, sy_pass *p)
{
    sy_status st = SY_OK;
    static int32_t token[RIG_T * 2];
    sy_choices *c = &m->choices;
    const int32_t rank = mpi_test_world()->rank;
    *c = (sy_choices){.T = m->T, .K = 2};
    for (int32_t i = 0; i < m->T * 2; i++) {
        token[i] = i / 2;
        m->expert[i] = made_up_choice(rank, i / 2, i % 2);
    }
    SY_TRY(sy_arena_2d(p->keep, SY_I32, m->T, 2, &c->token));
    SY_TRY(sy_arena_2d(p->keep, SY_I32, m->T, 2, &c->expert));
    SY_TRY(sy_arena_2d(p->keep, p->wide, m->T, 2, &c->weight));
    SY_TRY(sy_zero(p->stream, c->weight.data, sy_tensor_bytes(&c->weight)));
    SY_TRY(sy_copy_h2d(p->stream, c->token.data, token, sy_tensor_bytes(&c->token)));
    SY_TRY(sy_copy_h2d(p->stream, c->expert.data, m->expert, sy_tensor_bytes(&c->expert)));
cleanup:
    return st;
}

static sy_status build_plan(made_up *m, int32_t ep, int64_t recv_rows, sy_plan *plan)
{
    sy_status st = SY_OK;
    sy_comm *world = mpi_test_world();
    sy_moe_config c = rig_config(E, 2);
    *m = (made_up){.T = made_up_tokens(world->rank, world->size)};
    SY_TRY(rig_open(&m->rig, &(rig_spec){.moe = c, .backend = "ref", .world = world, .ep = ep}));
    sy_pass p = {.compute = SY_F64,
                 .wide = SY_F64,
                 .T_max = RIG_T,
                 .mesh = m->rig.mesh,
                 .stream = m->rig.stream,
                 .comm = m->rig.comm,
                 .keep = &m->rig.keep,
                 .saved = &m->rig.keep,
                 .scratch = &m->rig.scratch,
                 .host = &m->rig.host};
    SY_TRY(upload_choices(m, &p));
    SY_TRY(sy_plan_build(&p, &(sy_plan_spec){.E = E, .recv_rows = recv_rows}, &m->choices, plan));
    SY_TRY(sy_stream_sync(p.stream));
cleanup:
    return st;
}

/* n[src][dst] rows, counted from everybody's choices; ranks of one ep group. */
static void count_rows(int32_t ep, int64_t n[MAX_RANKS][MAX_RANKS])
{
    const sy_comm *world = mpi_test_world();
    const int32_t first = world->rank / ep * ep;
    memset(n, 0, sizeof(int64_t) * MAX_RANKS * MAX_RANKS);
    for (int32_t s = 0; s < ep; s++) {
        for (int32_t t = 0; t < made_up_tokens(first + s, world->size); t++) {
            for (int32_t k = 0; k < 2; k++) {
                int32_t e = made_up_choice(first + s, t, k);
                if (e >= 0) {
                    n[s][e / (E / ep)]++;
                }
            }
        }
    }
}

/* One pass as each side sees it: what this rank receives from each of its ep group is what they
   send. Collective; q may be beyond this group's last pass. */
static bool both_sides_agree(const sy_plan *plan, int32_t q, int64_t recv_rows)
{
    sy_comm *world = mpi_test_world();
    const sy_plan_pass *pass = q < plan->n_passes ? &plan->pass[q] : NULL;
    const int32_t me = world->rank % plan->ep, first = world->rank - me;
    int64_t sends[MAX_RANKS * MAX_RANKS] = {0};
    bool ok = true;
    for (int32_t r = 0; r < plan->ep && pass != NULL; r++) {
        sends[world->rank * MAX_RANKS + r] = pass->h_n_send[r];
    }
    ok = sy_host_all_reduce(world, sends, MAX_RANKS * MAX_RANKS, SY_I64, SY_SUM, "pairs") == SY_OK;
    for (int32_t r = 0; r < plan->ep && pass != NULL; r++) {
        ok = ok && sends[(first + r) * MAX_RANKS + me] == pass->h_n_recv[r];
    }
    return ok && (pass == NULL || (pass->n_arrive <= recv_rows && pass->R >= pass->n_arrive));
}

/* Over all passes every rank sends what its choices say and receives what the others' say; no rank
   receives more at a time than its buffer holds. */
static void plan_of_any_choices_sends_what_arrives(void **state)
{
    (void)state;
    sy_comm *world = mpi_test_world();
    static const int64_t buffers[2] = {1000, 7};
    for (int32_t i = 0; i < 2; i++) {
        for (int32_t ep = 1; ep <= world->size; ep = next_ep(ep)) {
            made_up m;
            sy_plan plan = {0};
            int64_t n[MAX_RANKS][MAX_RANKS], most;
            const int32_t me = world->rank % ep;
            bool ok = true;
            assert_all_ok(build_plan(&m, ep, buffers[i], &plan));
            count_rows(ep, n);
            most = plan.n_passes;
            assert_all_ok(sy_host_all_reduce(world, &most, 1, SY_I64, SY_MAX, "passes"));
            for (int32_t q = 0; q < most; q++) {
                ok = both_sides_agree(&plan, q, buffers[i]) && ok;
            }
            for (int32_t r = 0; r < ep; r++) {
                int64_t sent = 0, received = 0;
                for (int32_t q = 0; q < plan.n_passes; q++) {
                    sent += plan.pass[q].h_n_send[r];
                    received += plan.pass[q].h_n_recv[r];
                }
                ok = ok && sent == n[me][r] && received == n[r][me];
            }
            assert_all(ok);
            assert_all((most > 1) == (i == 1));
            rig_close(&m.rig);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_at_any_ep_are_the_plain_sum),
        cmocka_unit_test(gradients_at_any_ep_are_those_of_one_process),
        cmocka_unit_test(experts_moved_to_other_ranks_change_nothing),
        cmocka_unit_test(balance_loss_of_the_fixture_dealt_to_ranks_is_golden),
        cmocka_unit_test(plan_of_any_choices_sends_what_arrives),
    };
    return mpi_test_main("moe_identities", tests, sizeof tests / sizeof tests[0]);
}
