/* Where a PCI device stands: its memory node, the cores of that node, the network cards near it.
   Read from sysfs. */
#ifndef SY_CORE_PCI_H
#define SY_CORE_PCI_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_pci_place {
    int32_t node;   /* memory node; -1: the machine has one only, or does not say */
    char cores[64]; /* of that node, as the kernel lists them: "0-31,64-95"; "": node -1 */
    char cards[64]; /* InfiniBand and RoCE cards that share most bridges with it, by commas; "": it
                       shares none with any */
} sy_pci_place;

/* address as "0000:9B:00.0", sys the folder "/sys". False where there is no such device. Not
 * collective. */
bool sy_pci_place_of(const char *sys, const char *address, sy_pci_place *out);
/* Let this thread, and those that it starts, run on the device's node only. Does nothing where the
   launcher has bound it already, or the node has none of its cores. True if it is bound now. Not
   collective. */
bool sy_pci_bind_cores(const sy_pci_place *place);

#ifdef __cplusplus
}
#endif
#endif
