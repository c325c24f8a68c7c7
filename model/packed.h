/* model/packed.h - several sequences laid end to end, without padding: what the model reads.
 *
 *   ids    int32 (N)      token ids, 0 <= id < vocabulary
 *   start  int32 (S + 1)  sequence s is ids[start[s]] .. ids[start[s+1] - 1]; start[0] = 0, start[S] = N; none is empty
 *   seq    int32 (S)      the sequence's number within its whole batch: dropout masks are keyed by it, so that cutting
 *                         a batch into micro-batches changes no mask; NULL means 0 .. S-1
 */
#ifndef MODEL_PACKED_H
#define MODEL_PACKED_H

#include <stdint.h>

typedef struct {
    int N, S;
    int longest; /* length of the longest sequence, >= 1 */
    const int32_t *ids, *start, *seq;
} Packed;

#endif
