/* A folder made like the sysfs of a node with two sockets: what is near a GPU, and where its rank
   runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <sched.h>

#include <cmocka.h>

#include "core/pci.h"
#include "tests/support/scratch.h"

#define SOCKET_0 "devices/pci0000:00"
#define SOCKET_1 "devices/pci0000:80"

static void make(const scratch *s, const char *command)
{
    char text[4 * SCRATCH_PATH];
    snprintf(text, sizeof text, "cd %s && %s", s->dir, command);
    assert_int_equal(system(text), 0);
}

/* GPU 9b with one card behind its switch, GPU bb with two, GPU 1b on the other socket with none;
   a card on a bridge of its own. */
static void make_node(const scratch *s)
{
    make(s, "mkdir -p bus/pci/devices class/infiniband devices/system/node/node0 "
            "devices/system/node/node1 && echo 0 > devices/system/node/node0/cpulist && "
            "echo 1-2,700 > devices/system/node/node1/cpulist");
    make(s,
         "gpu() { mkdir -p $1 && echo $2 > $1/numa_node && ln -s ../../../$1 bus/pci/devices/; }; "
         "card() { mkdir -p $1 class/infiniband/$2 && ln -s ../../../$1 "
         "class/infiniband/$2/device; }; "
         "gpu " SOCKET_0 "/0000:00:01.0/0000:1b:00.0 0; "
         "gpu " SOCKET_1 "/0000:80:01.0/0000:9a:00.0/0000:9b:00.0 1; "
         "gpu " SOCKET_1 "/0000:80:03.0/0000:ba:00.0/0000:bb:00.0 1; "
         "card " SOCKET_1 "/0000:80:01.0/0000:9a:01.0/0000:9c:00.0 mlx5_0; "
         "card " SOCKET_1 "/0000:80:03.0/0000:ba:01.0 mlx5_1; "
         "card " SOCKET_1 "/0000:80:03.0/0000:ba:02.0 mlx5_2; "
         "card " SOCKET_0 "/0000:00:09.0/0000:2c:00.0 mlx5_3");
}

static void cards_behind_the_same_switch_are_near(void **state)
{
    const scratch *s = *state;
    sy_pci_place p;
    make_node(s);
    assert_true(sy_pci_place_of(s->dir, "0000:9B:00.0", &p)); /* as CUDA writes it */
    assert_int_equal(p.node, 1);
    assert_string_equal(p.cores, "1-2,700");
    assert_string_equal(p.cards, "mlx5_0");
    assert_true(sy_pci_place_of(s->dir, "0000:bb:00.0", &p));
    assert_true(strcmp(p.cards, "mlx5_1,mlx5_2") == 0 || strcmp(p.cards, "mlx5_2,mlx5_1") == 0);
    assert_true(sy_pci_place_of(s->dir, "0000:1b:00.0", &p));
    assert_int_equal(p.node, 0);
    assert_string_equal(p.cards, ""); /* only the socket in common */
}

static void device_that_is_not_there_has_no_place(void **state)
{
    const scratch *s = *state;
    char address[300];
    sy_pci_place p;
    assert_false(sy_pci_place_of(s->dir, "0000:9b:00.0", &p)); /* no sysfs at all */
    make_node(s);
    assert_false(sy_pci_place_of(s->dir, "0000:77:00.0", &p));
    memset(address, 'x', sizeof address);
    address[sizeof address - 1] = '\0';
    assert_false(sy_pci_place_of(s->dir, address, &p));
    assert_int_equal(p.node, -1);
    make(s, "rm bus/pci/devices/0000:9b:00.0/numa_node");
    assert_true(sy_pci_place_of(s->dir, "0000:9b:00.0", &p));
    assert_int_equal(p.node, -1);
    assert_string_equal(p.cores, "");
}

static void thread_is_bound_once_and_only_to_cores_it_has(void **state)
{
    (void)state;
    cpu_set_t before, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_false(sy_pci_bind_cores(&(sy_pci_place){.node = 0, .cores = "900-1000"}));
    assert_false(sy_pci_bind_cores(&(sy_pci_place){.node = -1}));
    assert_false(sy_pci_bind_cores(&(sy_pci_place){.node = 0, .cores = "0-99999"})); /* is all */
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    if (CPU_COUNT(&before) < 2 || CPU_COUNT(&before) < sysconf(_SC_NPROCESSORS_ONLN) ||
        !CPU_ISSET(1, &before)) {
        skip();
    }
    assert_true(sy_pci_bind_cores(&(sy_pci_place){.node = 0, .cores = "1"}));
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_COUNT(&after) == 1 && CPU_ISSET(1, &after));
    assert_false(sy_pci_bind_cores(&(sy_pci_place){.node = 0, .cores = "0"})); /* bound already */
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cards_behind_the_same_switch_are_near, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(device_that_is_not_there_has_no_place, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test(thread_is_bound_once_and_only_to_cores_it_has),
    };
    return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
