package kmstest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// wireGarbage speaks to the socket as no API server does: a scanner, a wrong client, a
// process that dies in the middle of a frame.
func wireGarbage(ctx context.Context, s *subject) error {
	client, ok := s.svc.(*Client)
	if !ok {
		return skipError("there is no socket")
	}
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4
	for what, garbage := range map[string]string{
		"a connection without a byte":        "",
		"random bytes":                       string(random(64 << 10)),
		"an HTTP/1.1 request":                "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"half a preface":                     preface[:10],
		"a preface and random bytes":         preface + string(random(64<<10)),
		"a preface and a frame of 16 MiB":    preface + "\xff\xff\xff\x00\x00\x00\x00\x00\x01" + strings.Repeat("x", 64<<10),
		"a preface and headers out of order": preface + "\x00\x00\x01\x09\x04\x00\x00\x00\x01\xff",
	} {
		if err := client.send(ctx, s.o.CallTimeout, garbage); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	for what, c := range map[string]struct{ method, body string }{
		"a request that is no protobuf":          {"/v2.KeyManagementService/Encrypt", "\xff\xff\xff\xff"},
		"a request cut short":                    {"/v2.KeyManagementService/Decrypt", "\x0a\x7fshort"},
		"a method that does not exist":           {"/v2.KeyManagementService/Destroy", ""},
		"a service that does not exist":          {"/v9.KeyManagementService/Status", ""},
		"a method without a service in its name": {"/", ""},
	} {
		_, err := call(ctx, s, c.method, func(ctx context.Context) (struct{}, error) {
			var reply []byte
			return struct{}{}, client.conn.Invoke(ctx, c.method, []byte(c.body), &reply, grpc.ForceCodec(rawCodec{}))
		})
		if err := refused(what, err); err != nil {
			return err
		}
	}
	// The old connection works, and so does a new one.
	if err := s.alive(ctx, "garbage on the socket"); err != nil {
		return err
	}
	fresh := *s
	c, err := Dial(client.endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	fresh.svc = c
	return fresh.alive(ctx, "garbage on the socket, on a new connection")
}

// send opens a connection, writes garbage and reads until the plugin closes or a moment
// has passed, so that the plugin has had to deal with it.
func (c *Client) send(ctx context.Context, timeout time.Duration, garbage string) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("the plugin accepts no connection: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(min(timeout, 100*time.Millisecond)))
	// The plugin may close before it has read everything; that is its right.
	io.WriteString(conn, garbage)
	io.Copy(io.Discard, conn)
	return nil
}

// rawCodec sends and receives bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}
func (rawCodec) Name() string { return "proto" }
