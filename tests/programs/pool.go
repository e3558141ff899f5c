// As pool.c, in Go. Its own package makes the system calls: no C library.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

//go:noinline
func open_connection(port string) net.Conn {
	connection, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	return connection
}

//go:noinline
func release_to_pool(connection net.Conn) {
	connection.Close()
}

//go:noinline
func handle_request(port string) {
	release_to_pool(open_connection(port))
}

//go:noinline
func expire_session(port string) {
	open_connection(port).Close()
}

var forgotten []net.Conn

//go:noinline
func forget_session(port string) {
	forgotten = append(forgotten, open_connection(port))
}

func main() {
	for n := 0; n < 20; n++ {
		handle_request(os.Args[1])
	}
	for n := 0; n < 5; n++ {
		expire_session(os.Args[1])
	}
	for n := 0; n < 3; n++ {
		forget_session(os.Args[2])
	}
	fmt.Println("done")
	// Until its standard input is closed.
	io.ReadAll(os.Stdin)
}
