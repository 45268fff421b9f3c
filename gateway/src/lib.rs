//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
