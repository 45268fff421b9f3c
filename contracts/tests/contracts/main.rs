//! Consumers write down what they ask for and read, with their own code; providers are held to it, the real ones.

// Marked as tests once more, so that clippy knows their helpers for what they are.
#[cfg(test)]
mod cli;
#[cfg(test)]
mod events;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod providers;
