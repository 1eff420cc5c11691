//! The store from outside: what is written comes back, and what goes wrong is said and loses nothing.

mod ahead;
mod at_once;
mod crash;
mod damage;
mod refusal;
mod round_trip;
mod sample;
mod scratch;
