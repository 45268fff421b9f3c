//! One line per request, whatever becomes of it. Alone in its process: the log belongs to all of one.
