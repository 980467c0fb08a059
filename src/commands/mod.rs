//! One file for each verb of `kubectl idlewild`.
