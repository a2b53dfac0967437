//! What a VMM is told and what it says: the public API of Firecracker as checked values. Pure: no I/O.
