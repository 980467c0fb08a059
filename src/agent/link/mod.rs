//! The half that talks to hubs; it touches no pod.
