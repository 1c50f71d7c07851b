// Command kube-apiserver is the real API server with Keyfold inside: a KMS v2
// provider of one chosen name is served in this process, all others go to their
// plugins as ever.
//
// Three environment variables change it; without them it is the API server as
// released:
//
//	KEYFOLD_PROVIDER  the provider's name in the encryption configuration
//	KEYFOLD_CONFIG    the file that says where its keys live and which there are
//	KEYFOLD_RELOAD    how often the encryption configuration is looked at (1m)
package main

import (
	"context"
	"fmt"
	"os"
	"time"
	_ "time/tzdata"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/keyfold/keyfold/kmsv2"
)

func main() {
	if err := customize(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "keyfold:", err)
		os.Exit(1)
	}
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}

func customize(ctx context.Context) error {
	if s := os.Getenv("KEYFOLD_RELOAD"); s != "" {
		interval, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("KEYFOLD_RELOAD: %w", err)
		}
		controller.EncryptionConfigFileChangePollDuration = interval
	}
	provider := os.Getenv("KEYFOLD_PROVIDER")
	if provider == "" {
		return nil
	}
	service, err := serve(ctx, os.Getenv("KEYFOLD_CONFIG"))
	if err != nil {
		return err
	}
	encryptionconfig.EnvelopeKMSv2ServiceFactory = kmsv2.Factory(service,
		func(name string) bool { return name == provider },
		encryptionconfig.EnvelopeKMSv2ServiceFactory)
	return nil
}
