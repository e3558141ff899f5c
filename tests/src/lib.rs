//! Live tests of tcptrace: real sockets in network namespaces of their own.
