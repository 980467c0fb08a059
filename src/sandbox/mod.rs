//! Local control planes: a whole federation as processes on one machine.
