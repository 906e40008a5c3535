{{/*
The spec of every pod of the chart. Takes a dict: root; component; values (of the scheduler or of a
pool); args; ports, probes (texts); config (a ConfigMap, or ""); half (of the key pair: "private",
"public" or ""; where there is a cookie, all but "" get that); serviceAccount; token (whether it talks to the API); knowsItself
(whether it is told its pod's name); grace (seconds).
*/}}
{{- define "gcb.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .serviceAccount }}
serviceAccountName: {{ . | quote }}
{{- end }}
automountServiceAccountToken: {{ .token }}
# Kubernetes' variables for each Service (DASK_..._SERVICE_HOST) would read as Dask configuration.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ int64 .grace }}
securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" ($.selector | fromYaml)) }}
  - {{- toYaml (merge (deepCopy .) (ternary dict $own (hasKey . "labelSelector"))) | nindent 4 }}
  {{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" }}
{{- with get $values $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ include "gcb.image" (list $root ($values.image | default dict)) | quote }}
    imagePullPolicy: {{ dig "pullPolicy" $root.Values.image.pullPolicy ($values.image | default dict) }}
    # Arguments, not a command: the image's entry point reaps what is orphaned.
    args: {{- toYaml .args | nindent 6 }}
    env: {{- include "gcb.env" . | trim | nindent 6 }}
    {{- with $values.envFrom }}
    envFrom: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .ports }}
    ports: {{- . | nindent 6 }}
    {{- end }}
    {{- with .probes }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $values.resources }}
    resources: {{- include "gcb.resources" . | nindent 6 }}
    {{- end }}
    securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 6 }}
    volumeMounts: {{- include "gcb.mounts" . | trim | nindent 6 }}
volumes:
  - name: work
    {{- toYaml ($values.workVolume | default (dict "emptyDir" dict)) | nindent 4 }}
  {{- if and .half (include "gcb.usesCookie" $root) }}
  - name: cookie
    secret:
      secretName: {{ include "gcb.cookieSecret" $root | quote }}
      defaultMode: 0440
      items:
        - {key: {{ $root.Values.cookie.key | quote }}, path: cookie}
  {{- else if .half }}
  - name: key
    secret:
      secretName: {{ include "gcb.keySecret" $root | quote }}
      defaultMode: 0440
      items:
        - {key: {{ .half }}.pem, path: {{ .half }}.pem}
  {{- end }}
  {{- with .config }}
  - name: config
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with $root.Values.tls.existingSecret }}
  - name: tls
    secret:
      secretName: {{ . | quote }}
      defaultMode: 0440
  {{- end }}
  {{- with $values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Environment; a variable of the user's own replaces the chart's. */}}
{{- define "gcb.env" -}}
{{- $own := dict "HOME" "/work" "TMPDIR" "/work" "DASK_TEMPORARY_DIRECTORY" "/work" "GC_BOOTSTRAP_RUNTIME_DIR" "/work/gc_bootstrap" -}}
{{- if and .half (include "gcb.usesCookie" .root) -}}
  {{- $_ := set $own "GC_BOOTSTRAP_COOKIE_FILE" "/etc/gc-bootstrap/cookie/cookie" -}}
{{- else if .half -}}
  {{- $variable := ternary "GC_BOOTSTRAP_KEY_FILE" "GC_BOOTSTRAP_PUBLIC_KEY_FILE" (eq .half "private") -}}
  {{- $_ := set $own $variable (printf "/etc/gc-bootstrap/key/%s.pem" .half) -}}
{{- end -}}
{{- if .config -}}
  {{- $_ := set $own "DASK_CONFIG" "/etc/gc-bootstrap/config" -}}
{{- end -}}
{{- if .root.Values.tls.existingSecret -}}
  {{- $_ := set $own "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION" "True" -}}
  {{- $_ := set $own "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" "/etc/gc-bootstrap/tls/ca.crt" -}}
  {{- range $role := list "SCHEDULER" "WORKER" "CLIENT" -}}
    {{- $_ := set $own (printf "DASK_DISTRIBUTED__COMM__TLS__%s__CERT" $role) "/etc/gc-bootstrap/tls/tls.crt" -}}
    {{- $_ := set $own (printf "DASK_DISTRIBUTED__COMM__TLS__%s__KEY" $role) "/etc/gc-bootstrap/tls/tls.key" -}}
  {{- end -}}
{{- end -}}
{{- $fields := ternary (dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace") dict (.knowsItself | default false) -}}
{{- range .values.env -}}
  {{- $_ := unset $own .name -}}
  {{- $_ := unset $fields .name -}}
{{- end -}}
{{- range $name, $value := $own }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range $name, $path := $fields }}
- {name: {{ $name }}, valueFrom: {fieldRef: {fieldPath: {{ $path }}}}}
{{- end }}
{{- with .values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Mounts; one of the user's own on the same path replaces the chart's. */}}
{{- define "gcb.mounts" -}}
{{- $own := dict "/work" "work" "/tmp" "work" -}}
{{- if and .half (include "gcb.usesCookie" .root) -}}
  {{- $_ := set $own "/etc/gc-bootstrap/cookie" "cookie" -}}
{{- else if .half -}}
  {{- $_ := set $own "/etc/gc-bootstrap/key" "key" -}}
{{- end -}}
{{- if .config -}}{{- $_ := set $own "/etc/gc-bootstrap/config" "config" -}}{{- end -}}
{{- if .root.Values.tls.existingSecret -}}{{- $_ := set $own "/etc/gc-bootstrap/tls" "tls" -}}{{- end -}}
{{- range .values.volumeMounts -}}
  {{- $_ := unset $own .mountPath -}}
{{- end -}}
{{- range $path, $name := $own }}
- {name: {{ $name }}, mountPath: {{ $path }}{{ if ne $name "work" }}, readOnly: true{{ end }}}
{{- end }}
{{- with .values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Resources, without those that are null: they remove a default. */}}
{{- define "gcb.resources" -}}
{{- $kept := dict -}}
{{- range $kind := list "requests" "limits" -}}
  {{- range $name, $amount := get $ $kind | default dict -}}
    {{- if not (kindIs "invalid" $amount) -}}
      {{- $_ := set $kept $kind (merge (get $kept $kind | default dict) (dict $name (toString $amount))) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with .claims -}}{{- $_ := set $kept "claims" . -}}{{- end -}}
{{- toYaml $kept -}}
{{- end -}}
