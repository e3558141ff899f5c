//! `top`: which services have how many sockets in which state, now.
