/* model/ops_x86.h - what is asked of the x86 backend beside its operations. */
#ifndef MODEL_OPS_X86_H
#define MODEL_OPS_X86_H

#include <stdbool.h>

/* Whether this processor multiplies bfloat16, and at least a fifth faster than float, which is not everywhere so: less
 * than a millisecond of both on one thread. */
bool ops_x86_gains(void);

/* Of the product kernel that would be used; NULL where there is none. */
const char *ops_x86_kernel(bool bf16);

#endif
