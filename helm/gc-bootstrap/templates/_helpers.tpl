{{/* Names, labels, and the pools as they are after the defaults and all checks. */}}

{{- define "gcb.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full -}}
{{- end -}}

{{/* Never cut short: two releases whose names begin alike would share objects. */}}
{{- define "gcb.checkName" -}}
{{- $name := index . 0 -}}{{- $key := index . 1 -}}
{{- if gt (len $name) 52 -}}
{{- fail (printf "%s: the name %s has %d characters, and at most 52 fit into Kubernetes' labels; set a shorter fullnameOverride" $key $name (len $name)) -}}
{{- end -}}
{{- end -}}

{{- define "gcb.scheduler" -}}
{{- $name := printf "%s-scheduler" (include "gcb.fullname" .) -}}
{{- include "gcb.checkName" (list $name "scheduler") -}}
{{- $name -}}
{{- end -}}

{{- define "gcb.cluster" -}}
{{- .Values.cluster.name | default (include "gcb.fullname" .) -}}
{{- end -}}

{{/* Not there in the values of a release that was made before (--reuse-values). */}}
{{- define "gcb.ownKeys" -}}
{{- dig "existingSecret" "" (.Values.keyPair | default dict) -}}
{{- end -}}

{{/* A cookie, where the values say one; else a key pair. */}}
{{- define "gcb.usesCookie" -}}
{{- if or .Values.cookie.value .Values.cookie.existingSecret -}}
{{- if include "gcb.ownKeys" . -}}
{{- fail "cookie: keyPair.existingSecret is set, too; keep one of them" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "gcb.keySecret" -}}
{{- include "gcb.ownKeys" . | default (printf "%s-keys" (include "gcb.fullname" .)) -}}
{{- end -}}

{{- define "gcb.cookieSecret" -}}
{{- if and .Values.cookie.value .Values.cookie.existingSecret -}}
{{- fail "cookie: value and existingSecret are both set; keep one of them" -}}
{{- end -}}
{{- .Values.cookie.existingSecret | default (printf "%s-cookie" (include "gcb.fullname" .)) -}}
{{- end -}}

{{/* A cookie in the values that changes restarts both sides. Through scrypt: who may read pods gets
no cheap way to try cookies. */}}
{{- define "gcb.cookieChecksum" -}}
{{- with .Values.cookie.value -}}
{{- derivePassword 1 "maximum" . "gc-bootstrap" "cookie" | sha256sum -}}
{{- end -}}
{{- end -}}

{{/* (list root component [pool]): what a selector may name, for it can never change. */}}
{{- define "gcb.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- if gt (len .) 2 }}
gc-bootstrap/pool: {{ index . 2 | quote }}
{{- end }}
{{- end -}}

{{/* Of pods. No versions: a new chart alone must not restart a scheduler, which loses all results. */}}
{{- define "gcb.podLabels" -}}
{{ include "gcb.selector" . }}
app.kubernetes.io/part-of: {{ include "gcb.cluster" (index . 0) | quote }}
{{- end -}}

{{- define "gcb.labels" -}}
{{- $root := index . 0 -}}
{{ include "gcb.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* (list key duration): seconds, as an integer. */}}
{{- define "gcb.seconds" -}}
{{- $key := index . 0 -}}{{- $text := index . 1 | toString -}}
{{- if not (regexMatch "^[1-9][0-9]*(s|m|h)$" $text) -}}
{{- fail (printf "%s: %q is not a duration such as 90s, 10m or 1h" $key $text) -}}
{{- end -}}
{{- $unit := get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]$" $text) -}}
{{- mul (regexFind "^[0-9]+" $text | int64) $unit -}}
{{- end -}}

{{/* All pools by name, as JSON: poolDefaults under what each says, and what follows from that. JSON
makes floats of all numbers: print them with int64. */}}
{{- define "gcb.pools" -}}
{{- $pools := dict -}}
{{- range $name, $given := .Values.pools -}}
  {{- $key := printf "pools.%s" $name -}}
  {{- if not (regexMatch "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" $name) -}}
    {{- fail (printf "%s: the name is not a DNS label: expected lower-case letters, digits and '-' between them" $key) -}}
  {{- end -}}
  {{- if eq $name "scheduler" -}}
    {{- fail "pools.scheduler: the name is taken by the scheduler; choose another" -}}
  {{- end -}}
  {{- $pool := mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy $given) -}}
  {{- include "gcb.completePool" (list $pool $given) -}}
  {{- $full := printf "%s-%s" (include "gcb.fullname" $) $name -}}
  {{- include "gcb.checkName" (list $full $key) -}}
  {{- $_ := set $pool "fullname" $full -}}
  {{- $_ := set $pool "serviceAccount" ($pool.serviceAccountName | default (ternary $full "" $pool.podDeletionCost)) -}}
  {{- include "gcb.checkPool" (list $ $key $pool) -}}
  {{- $drain := include "gcb.seconds" (list (printf "%s.drainTimeout" $key) $pool.drainTimeout) | int64 -}}
  {{- $grace := $pool.terminationGracePeriodSeconds | default (add $drain 15) | int64 -}}
  {{- if lt $grace $drain -}}
    {{- fail (printf "%s: terminationGracePeriodSeconds is %d, but drainTimeout is %s: Kubernetes would kill agents before their data is safe" $key $grace $pool.drainTimeout) -}}
  {{- end -}}
  {{- $_ := set $pool "terminationGracePeriodSeconds" $grace -}}
  {{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* (list pool given): put in what follows from the rest. Sections that are not there in the values of a
release that was made before (--reuse-values) are empty. */}}
{{- define "gcb.completePool" -}}
{{- $pool := index . 0 -}}{{- $given := index . 1 -}}
{{- $_ := set $pool "podDeletionCost" ($pool.podDeletionCost | default false) -}}
{{- $_ := set $pool "share" ($pool.share | default dict) -}}
{{- $_ := set $pool "keda" ($pool.keda | default dict) -}}
{{- $_ := set $pool.autoscaling "wanted" ($pool.autoscaling.wanted | default dict) -}}
{{- $scaler := ternary "autoscaling" "" $pool.autoscaling.enabled -}}
{{- $_ := set $pool "scaler" (ternary "keda" $scaler ($pool.keda.enabled | default false)) -}}
{{- /* As in the configuration of gc_bootstrap: a size or adapt of the pool's own puts out the other's default. */ -}}
{{- $own := list -}}
{{- range $key := list "size" "adapt" -}}
  {{- if and (hasKey $given $key) (not (kindIs "invalid" (get $given $key))) -}}{{- $own = append $own $key -}}{{- end -}}
{{- end -}}
{{- if eq (len $own) 1 -}}
  {{- $_ := set $pool (ternary "adapt" "size" (has "size" $own)) nil -}}
{{- end -}}
{{- /* Not `default`: a size of 0 is one. */ -}}
{{- if kindIs "invalid" $pool.size -}}{{- $_ := set $pool "size" "all" -}}{{- end -}}
{{- $_ := set $pool "adapts" (kindIs "map" $pool.adapt) -}}
{{- $_ := set $pool "saysSize" (or (has "size" $own) (ne (toString $pool.size) "all")) -}}
{{- end -}}

{{- define "gcb.checkPool" -}}
{{- $root := index . 0 -}}{{- $key := index . 1 -}}{{- $pool := index . 2 -}}
{{- if and $pool.enabled $pool.discovery.service -}}
  {{- fail (printf "%s: discovery.service names a Service of another release, and enabled deploys agents here; set enabled: false, or two pools" $key) -}}
{{- end -}}
{{- if and $pool.discovery.namespace (not $pool.discovery.service) -}}
  {{- fail (printf "%s: discovery.namespace is set without discovery.service" $key) -}}
{{- end -}}
{{- if and $pool.volumeClaimTemplates (ne $pool.kind "StatefulSet") -}}
  {{- fail (printf "%s: volumeClaimTemplates need kind: StatefulSet" $key) -}}
{{- end -}}
{{- if and $pool.podDeletionCost (ne $pool.kind "Deployment") -}}
  {{- fail (printf "%s: podDeletionCost has no effect with kind: %s, which is scaled down from its highest number; it needs kind: Deployment" $key $pool.kind) -}}
{{- end -}}
{{- include "gcb.checkSizes" (list $key $pool) -}}
{{- include "gcb.checkScaler" . -}}
{{- if and $pool.enabled (eq ($root.Values.discoveryOptions.address | default "ip") "hostname") (ne $pool.kind "StatefulSet") -}}
  {{- fail (printf "discoveryOptions.address: hostname needs kind: StatefulSet, and %s is a %s" $key $pool.kind) -}}
{{- end -}}
{{- end -}}

{{- define "gcb.checkSizes" -}}
{{- $key := index . 0 -}}{{- $pool := index . 1 -}}
{{- $most := $pool.size -}}{{- $what := "size" -}}
{{- if $pool.adapts -}}
  {{- if ne (toString $pool.size) "all" -}}
    {{- fail (printf "%s.size: %v contradicts adapt; keep one of them" $key $pool.size) -}}
  {{- end -}}
  {{- $most = $pool.adapt.maximum -}}{{- $what = "adapt.maximum" -}}
  {{- if and (not (kindIs "invalid" $most)) (gt (int64 $pool.adapt.minimum) (int64 $most)) -}}
    {{- fail (printf "%s.adapt: minimum is %d, and maximum is %d" $key (int64 $pool.adapt.minimum) (int64 $most)) -}}
  {{- end -}}
{{- end -}}
{{- if and (not (has (toString $most) (list "all" "<nil>"))) (gt (int64 $pool.share.guaranteed) (int64 $most)) -}}
  {{- fail (printf "%s.share: guaranteed is %d, and %s is %d" $key (int64 $pool.share.guaranteed) $what (int64 $most)) -}}
{{- end -}}
{{- end -}}

{{- define "gcb.checkScaler" -}}
{{- $root := index . 0 -}}{{- $key := index . 1 -}}{{- $pool := index . 2 -}}
{{- if and $pool.autoscaling.enabled $pool.keda.enabled -}}
  {{- fail (printf "%s: autoscaling and keda are both enabled, and would scale the same agents; keep one of them" $key) -}}
{{- end -}}
{{- if $pool.scaler -}}
  {{- $bounds := get $pool $pool.scaler -}}
  {{- if lt (int64 $bounds.maxReplicas) (int64 $bounds.minReplicas) -}}
    {{- fail (printf "%s.%s: maxReplicas is less than minReplicas" $key $pool.scaler) -}}
  {{- end -}}
{{- end -}}
{{- $auto := $pool.autoscaling -}}
{{- if and $auto.enabled (not (or $auto.metrics $auto.targetCPUUtilizationPercentage $auto.wanted.enabled)) -}}
  {{- fail (printf "%s.autoscaling: there is nothing to scale by; set targetCPUUtilizationPercentage, metrics or wanted.enabled" $key) -}}
{{- end -}}
{{- if and $pool.keda.enabled (not $pool.keda.serverAddress) -}}
  {{- fail (printf "%s.keda: serverAddress is missing; it says where Prometheus is, such as http://prometheus-operated.monitoring:9090" $key) -}}
{{- end -}}
{{- $wanted := or (and $auto.enabled $auto.wanted.enabled) (and $pool.keda.enabled (not $pool.keda.query)) -}}
{{- /* Without a scheduler here, those of other releases say how many they want. */ -}}
{{- if and $wanted $root.Values.scheduler.enabled (not $pool.adapts) (eq (toString $pool.size) "all") -}}
  {{- fail (printf "%s: %s scales by how many agents are wanted, and size: all wants whatever there is; set adapt" $key (ternary "keda" "autoscaling.wanted" $pool.keda.enabled)) -}}
{{- end -}}
{{- end -}}

{{/* (list section pool): put into a pool's section of the configuration how many agents it holds. Not as
JSON, which would make 1e+06 of a million. */}}
{{- define "gcb.setSizes" -}}
{{- $section := index . 0 -}}{{- $pool := index . 1 -}}
{{- if $pool.adapts -}}
  {{- $adapt := dict -}}
  {{- range $key, $value := $pool.adapt -}}
    {{- if kindIs "float64" $value -}}{{- $value = int64 $value -}}{{- end -}}
    {{- $_ := set $adapt (kebabcase $key) $value -}}
  {{- end -}}
  {{- $_ := set $section "adapt" $adapt -}}
{{- else if $pool.saysSize -}}
  {{- $_ := set $section "size" (ternary "all" (int64 $pool.size) (eq (toString $pool.size) "all")) -}}
{{- end -}}
{{- $share := dict -}}
{{- with $pool.share.policy -}}{{- $_ := set $share "policy" . -}}{{- end -}}
{{- with $pool.share.weight -}}{{- if ne (float64 .) 1.0 -}}{{- $_ := set $share "weight" . -}}{{- end -}}{{- end -}}
{{- with $pool.share.guaranteed -}}{{- $_ := set $share "guaranteed" (int64 .) -}}{{- end -}}
{{- with $share -}}{{- $_ := set $section "share" . -}}{{- end -}}
{{- end -}}

{{/* (list root): the labels by which Prometheus knows the schedulers of this cluster, and where they are;
as JSON. Services have the first one, and both the monitor and Prometheus' usual job for Services take it over. */}}
{{- define "gcb.schedulerSeries" -}}
{{- $namespaces := prepend .Values.cluster.namespaces .Release.Namespace | uniq -}}
{{- dict "part" (include "gcb.cluster" .) "namespaces" $namespaces | toJson -}}
{{- end -}}

{{/* (list root override): an image's full name. */}}
{{- define "gcb.image" -}}
{{- $root := index . 0 -}}
{{- $image := mergeOverwrite (deepCopy $root.Values.image) (deepCopy (index . 1)) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The scheduler's Dask configuration. */}}
{{- define "gcb.schedulerConfig" -}}
{{- $root := . -}}
{{- $pools := dict -}}
{{- range $name, $pool := include "gcb.pools" . | fromJson -}}
  {{- if or $pool.enabled $pool.discovery.service -}}
    {{- $service := $pool.discovery.service | default $pool.fullname -}}
    {{- $namespace := $pool.discovery.namespace | default $root.Release.Namespace -}}
    {{- $found := include "gcb.discovery" (list $root $service $namespace) | fromJson -}}
    {{- $section := dict "discovery" $found "drain" (dict "timeout" $pool.drainTimeout) -}}
    {{- include "gcb.setSizes" (list $section $pool) -}}
    {{- $_ := set $pools $name $section -}}
  {{- end -}}
{{- end -}}
{{- $made := dict "gc-bootstrap" (dict "pools" $pools) -}}
{{- mergeOverwrite $made (deepCopy .Values.scheduler.config) | toYaml -}}
{{- end -}}

{{/* (list root service namespace): one pool's discovery, as JSON. */}}
{{- define "gcb.discovery" -}}
{{- $root := index . 0 -}}{{- $service := index . 1 -}}{{- $namespace := index . 2 -}}
{{- $way := $root.Values.discovery -}}
{{- $known := ternary (list "address" "ip-family") (list "ipv6" "host-type" "lookup-timeout" "nameservers" "cache") (eq $way "kubernetes") -}}
{{- range $option, $_ := $root.Values.discoveryOptions -}}
  {{- if not (has $option $known) -}}
    {{- fail (printf "discoveryOptions.%s: is not an option of discovery: %s; there are: %s" $option $way (join ", " $known)) -}}
  {{- end -}}
{{- end -}}
{{- $options := deepCopy $root.Values.discoveryOptions -}}
{{- if eq $way "kubernetes" -}}
  {{- $_ := merge $options (dict "service" $service "namespace" $namespace) -}}
  {{- if and (ne $root.Values.clusterDomain "cluster.local") (has ($options.address | default "ip") (list "hostname" "pod-dns")) -}}
    {{- $_ := set $options "cluster-domain" $root.Values.clusterDomain -}}
  {{- end -}}
  {{- dict "kubernetes" $options | toJson -}}
{{- else -}}
  {{- /* The dot at the end spares the search list of the pod's resolv.conf. */ -}}
  {{- $domain := printf "%s.%s.svc.%s." $service $namespace $root.Values.clusterDomain -}}
  {{- if eq $way "srv" -}}
    {{- $_ := merge $options (dict "domain" (printf "_agent._tcp.%s" $domain) "record-type" "srv") -}}
  {{- else -}}
    {{- $_ := set $options "domain" $domain -}}
  {{- end -}}
  {{- dict "dns" $options | toJson -}}
{{- end -}}
{{- end -}}
