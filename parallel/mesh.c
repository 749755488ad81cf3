/* The groups of a mesh: where a rank stands in each factorisation, and one split per group. */
#include "parallel/mesh.h"

#include "core/alloc.h"
#include "parallel/agree.h"

static const char *const group_names[SY_N_GROUPS] = {
    [SY_WORLD] = "world", [SY_PP] = "pp", [SY_DP] = "dp",   [SY_CP] = "cp",      [SY_TP] = "tp",
    [SY_EDP] = "edp",     [SY_EP] = "ep", [SY_ETP] = "etp", [SY_DENSE] = "dense"};

const char *sy_group_name(sy_group group)
{
    return group_names[group];
}

/* Ranks of one color make the group. With pp = cp = tp = etp = 1 a rank is its own place in dp, and
   (edp, ep) with ep fastest. */
static int32_t color_of(sy_group group, int32_t rank, int32_t ep)
{
    switch (group) {
    case SY_WORLD:
    case SY_DP:
    case SY_DENSE:
        return 0;
    case SY_EP:
        return rank / ep;
    case SY_EDP:
        return rank % ep;
    default:
        return rank; /* a group of one */
    }
}

/* Of a world whose other ranks do not exist: the same groups by size and distance. */
static sy_status rehearse_group(const sy_comm *world, sy_group group, const sy_mesh_spec *spec,
                                sy_comm **out)
{
    const bool one = group == SY_PP || group == SY_CP || group == SY_TP || group == SY_ETP;
    const int32_t size = one               ? 1
                         : group == SY_EP  ? spec->ep
                         : group == SY_EDP ? world->size / spec->ep
                                           : world->size;
    return sy_comm_rehearse_group(world, size, group == SY_EDP ? spec->ep : 1, spec->dev,
                                  group_names[group], out);
}

static sy_status create_group(sy_comm *world, sy_group group, const sy_mesh_spec *spec,
                              sy_comm **out)
{
    if (sy_comm_rehearses(world)) {
        return rehearse_group(world, group, spec, out);
    }
    return sy_comm_split(world, color_of(group, world->rank, spec->ep), world->rank, spec->dev,
                         group_names[group], out);
}

static sy_status create_host(sy_comm *world, const char *name, sy_comm **out)
{
    return sy_comm_rehearses(world) ? sy_comm_rehearse_group(world, world->size, 1, NULL, name, out)
                                    : sy_comm_split(world, 0, world->rank, NULL, name, out);
}

/* What this rank needs for itself. */
static sy_status create_own(const sy_mesh_spec *spec, sy_mesh **out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(1, sizeof **out, (void **)out));
    (*out)->dev = spec->dev;
    SY_TRY(sy_placement_create(spec->n_experts, spec->ep, &(*out)->placement));
cleanup:
    return st;
}

sy_status sy_mesh_create(sy_comm *world, const sy_mesh_spec *spec, sy_mesh **out)
{
    sy_status st = SY_OK;
    sy_mesh *mesh = NULL;
    SY_REQUIRE(spec->ep >= 1 && world->size % spec->ep == 0, SY_ERR_USAGE,
               "parallel.ep = %d does not divide the %d ranks; choose an ep that does, or start "
               "another number of ranks",
               spec->ep, world->size);
    SY_TRY(sy_agree(world, create_own(spec, &mesh)));
    for (int32_t g = 0; g < SY_N_GROUPS; g++) {
        SY_TRY(create_group(world, (sy_group)g, spec, &mesh->group[g]));
    }
    SY_TRY(create_host(world, "host", &mesh->host));
    SY_TRY(create_host(world, "io", &mesh->io));
    *out = mesh;
    mesh = NULL;
cleanup:
    sy_mesh_destroy(&mesh);
    return st;
}

void sy_mesh_destroy(sy_mesh **mesh)
{
    sy_mesh *m = *mesh;
    if (m) {
        sy_comm_destroy(&m->io);
        sy_comm_destroy(&m->host);
        for (int32_t g = SY_N_GROUPS - 1; g >= 0; g--) {
            sy_comm_destroy(&m->group[g]);
        }
        sy_placement_destroy(&m->placement);
        sy_free(mesh);
    }
}
