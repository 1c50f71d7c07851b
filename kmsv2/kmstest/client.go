package kmstest

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"
)

// Client talks to a plugin the way an API server does.
type Client struct {
	endpoint string
	addr     string // of the socket; a leading "@" is an abstract name
	conn     *grpc.ClientConn
	kms      kmsapi.KeyManagementServiceClient
}

var _ service.Service = (*Client)(nil)

// Dial returns a client of the plugin at endpoint with the options of an API server
// (rows 1 and 23): a unix socket, no TLS, the authority "localhost", and calls that
// wait for a plugin that is not up yet. It does not connect.
func Dial(endpoint string) (*Client, error) {
	addr, err := util.ParseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	c := &Client{endpoint: endpoint, addr: addr}
	c.conn, err = grpc.NewClient("passthrough:///"+addr,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
	)
	if err != nil {
		return nil, err
	}
	c.kms = kmsapi.NewKeyManagementServiceClient(c.conn)
	return c, nil
}

// dial opens a connection to the socket.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.addr)
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Status calls the plugin.
func (c *Client) Status(ctx context.Context) (*service.StatusResponse, error) {
	r, err := c.kms.Status(ctx, &kmsapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	return &service.StatusResponse{Version: r.Version, Healthz: r.Healthz, KeyID: r.KeyId}, nil
}

// Encrypt calls the plugin.
func (c *Client) Encrypt(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
	r, err := c.kms.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: plaintext, Uid: uid})
	if err != nil {
		return nil, err
	}
	return &service.EncryptResponse{Ciphertext: r.Ciphertext, KeyID: r.KeyId, Annotations: r.Annotations}, nil
}

// Decrypt calls the plugin.
func (c *Client) Decrypt(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	r, err := c.kms.Decrypt(ctx, &kmsapi.DecryptRequest{
		Ciphertext: req.Ciphertext, Uid: uid, KeyId: req.KeyID, Annotations: req.Annotations})
	if err != nil {
		return nil, err
	}
	return r.Plaintext, nil
}
