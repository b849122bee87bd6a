"""Operations on arrays, their gradients, and the choice of an implementation per backend."""
