//! Waybill
fn main() {}
