// Command passthrough is the KMS v1 plugin that Keyfold is not: it asks the HSM
// for every object. The wall of KMS v1 is shown on it, and on its data that
// Keyfold does not run into it.
//
//	passthrough -socket /run/kms.sock -hsmsim-dir /var/lib/hsmsim -key-name kek
package main

//lint:file-ignore SA1019 KMS v1 is deprecated; the wall that it has is what this plugin is for.

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v1beta1"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

func main() {
	socket := flag.String("socket", "", "path of the unix socket to listen on")
	dir := flag.String("hsmsim-dir", "", "folder of the simulated HSM")
	key := flag.String("key-name", "", "name of the key; its latest version wraps")
	flag.Parse()
	log.Fatal(serve(*socket, *dir, *key))
}

func serve(socket, dir, key string) error {
	hsm, err := hsmsim.Open(dir, hsmsim.Options{})
	if err != nil {
		return err
	}
	kek, err := hsm.KEK(hsmsim.Ref{Name: key})
	if err != nil {
		return err
	}
	_ = os.Remove(socket) // left behind by a life that was killed
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	kmsapi.RegisterKeyManagementServiceServer(server, &passThrough{kek: kek})
	return server.Serve(listener)
}

// passThrough wraps the API server's own data key, one for each object, under
// the KEK, and unwraps it again for each.
type passThrough struct {
	kmsapi.UnimplementedKeyManagementServiceServer
	kek envelope.KEK
}

var _ kmsapi.KeyManagementServiceServer = (*passThrough)(nil)

func (*passThrough) Version(context.Context, *kmsapi.VersionRequest) (*kmsapi.VersionResponse, error) {
	return &kmsapi.VersionResponse{Version: "v1beta1", RuntimeName: "passthrough", RuntimeVersion: "0"}, nil
}

func (p *passThrough) Encrypt(ctx context.Context, r *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	wrapped, err := p.kek.Wrap(ctx, r.Plain)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	cipher, err := json.Marshal(wrapped)
	return &kmsapi.EncryptResponse{Cipher: cipher}, err
}

func (p *passThrough) Decrypt(ctx context.Context, r *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	var wrapped envelope.WrappedKey
	if err := json.Unmarshal(r.Cipher, &wrapped); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	plain, err := p.kek.Unwrap(ctx, wrapped)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &kmsapi.DecryptResponse{Plain: plain}, nil
}
