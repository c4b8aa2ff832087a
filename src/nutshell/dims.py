"""The one legend of dimension letters, used in shape annotations everywhere.

    B  sequences in a batch          D  model (residual stream) width
    T  tokens in a sequence          H  query heads
    S  tokens attended to (cache)    K  key/value heads
    V  vocabulary                    E  head width
    F  MLP hidden width              L  virtual layers (applications of a block)
    P  physical blocks               N  rows of something flat (targets, windows, streams)
    R  rows of a weight matrix       C  columns of a weight matrix
    M  embedding width, D unless a recipe says otherwise

Shapes are written with jaxtyping: `Float[Tensor, "B T D"]`.
"""
