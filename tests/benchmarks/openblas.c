/* The wheel scipy-openblas32 prefixes its symbols; this gives MLX's matrix products the names they look for.
 * Preloaded, it takes the place of the reference BLAS in MLX's Linux wheel. See install-peers. */
#define FORWARD(NAME, T)                                                                                       \
  extern void scipy_cblas_##NAME(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int);   \
  void cblas_##NAME(int order, int trans_a, int trans_b, int m, int n, int k, T alpha, const T* a, int lda,    \
                    const T* b, int ldb, T beta, T* c, int ldc) {                                              \
    scipy_cblas_##NAME(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                 \
  }

FORWARD(sgemm, float)
FORWARD(dgemm, double)
