/* model/formula.h - weights computed from their names: the same numbers wherever they are computed, so that a
 * model of any size can be compared, or measured, without a file of weights.
 *
 *   h = FNV-1a 64 of the parameter's name, s = h XOR seed
 *   z = s + (i + 1) * 0x9e3779b97f4a7c15, mixed by SplitMix64's finaliser, for element i in row-major order
 *   value = base + ((z >> 40) - 2^23) * 2^-23 * 2^e, in float: only the addition rounds
 *
 *   name                                      base   e
 *   ends with LayerNorm.weight                1      -3
 *   ends with LayerNorm.bias                  0      -3
 *   an embedding                              0      -1
 *   ends with .bias                           0      -4
 *   ends with query_proj or key_proj.weight   0      FormulaRule.qk
 *   classifier.weight                         0      FormulaRule.head
 *   any other                                 0      FormulaRule.other */
#ifndef MODEL_FORMULA_H
#define MODEL_FORMULA_H

#include "model/params.h"

typedef struct {
    uint64_t seed;
    int qk, head, other; /* exponents of two, -60 .. 60 */
} FormulaRule;

/* Exponents with which activations keep their size at this width: weights of variance about 1 / hidden. */
FormulaRule formula_rule(const Config *config, uint64_t seed);

/* Elements from .. from + n - 1 of a parameter, which need not be in memory: its name and kind count. */
void formula_range(real *out, const ParamView *parameter, size_t from, size_t n, const FormulaRule *rule);

/* A whole parameter, or all of them (the word embeddings too). */
void formula_fill(const ParamView *parameter, const FormulaRule *rule);
ErrCode formula_weights(const Params *params, const Config *config, const FormulaRule *rule,
                        Err *err) ERR_CHECKED;

#endif
