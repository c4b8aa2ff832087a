/* A predictor for `nutshell score --command "./adaptive 2048 1"`: counts of tokens, one more than was seen.
 *
 *     cc -O2 -o adaptive examples/adaptive.c -lm
 *
 * It shows the whole protocol of docs/predictor-protocol.md, on a little-endian machine.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void send_message(char kind, const void *content, uint32_t size) {
    uint32_t length = size + 1;
    fwrite(&length, 4, 1, stdout);
    fputc(kind, stdout);
    fwrite(content, 1, size, stdout);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    uint32_t vocab_size = strtoul(argv[1], 0, 10), bos = strtoul(argv[2], 0, 10), length, token;
    double *counts = malloc(vocab_size * sizeof *counts), total = vocab_size;
    float *answer = malloc(vocab_size * sizeof *answer);
    for (uint32_t i = 0; i < vocab_size; i++) counts[i] = 1;

    unsigned char hello[19] = "NUTSHELL\1"; /* version 1; the last byte, 0: documents help one another */
    memcpy(hello + 10, &vocab_size, 4);
    memcpy(hello + 14, &bos, 4);
    send_message('H', hello, sizeof hello);

    while (fread(&length, 4, 1, stdin) == 1) {
        int kind = getchar();
        if (kind == 'T') { /* this came */
            if (length != 5 || fread(&token, 4, 1, stdin) != 1 || token >= vocab_size) return 1;
            counts[token] += 1, total += 1;
        } else if (kind == 'P') { /* what comes next? */
            for (uint32_t i = 0; i < vocab_size; i++) answer[i] = (float)log(counts[i] / total);
            send_message('L', answer, vocab_size * sizeof *answer);
        } /* 'B' begins a document; this model does not care */
    }
    return 0;
}
