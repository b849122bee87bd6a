"""Operations on arrays, their gradients, and which implementation runs on which backend."""
